"""The calls of a TorchScript module in eval mode, found by walking through the code of its forward.

Nothing is executed: names stand for modules, tensors (Ref) and plain values, calls of torch's
operators are written down, and what is not understood is UNKNOWN, as is what comes of it. Both
sides of a condition that is not known are walked, and what they do not agree on is UNKNOWN.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.reading.listing import BETWEEN, ListedCall, Listing, Ref
from bncheck.reading.nodes import attributes
from bncheck.reading.pickle_values import Global, Node
from bncheck.reading.torch_objects import TorchObjects
from bncheck.reading.torchscript_code import Sources

#: A value that is not known; as an argument of a call, a text like a symbol.
UNKNOWN: Final = "?"
#: The largest networks take some 100,000 steps, and their code some 100 kB.
_MOST_STEPS: Final = 500_000
_MOST_CODE: Final = 1 << 20
#: Words and signs in it: each may become a node of a kilobyte; 100 kB of a network have 35,000.
_MOST_WORDS: Final = 200_000
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_MOST_DEPTH: Final = 60
#: What a trace records, and what it has the first arguments of.
_SAME: Final = {"_convolution": "convolution"}
_CASTS: Final = ("annotate", "unchecked_cast")

_Names: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Module:
    """A module of the file, and what its tensors' names start with."""

    node: Node
    prefix: str


@dataclass(frozen=True, slots=True)
class _Path:
    """A dotted name: torch.relu, ops.prim.min, __torch__.torch.nn.functional.relu."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Method:
    owner: _Module
    name: str


def listed_forward(root: Node, objects: TorchObjects, source: Sources, prefix: str = "") -> Listing:
    """The calls of a module's forward; its tensors' names start with the prefix.

    Raises BncheckError where its code is beyond limits.
    """
    walk = _Walk(objects, source)
    walk.method(_Method(_Module(root, prefix), "forward"), None, {})
    return Listing(tuple(walk.calls), repeated=tuple(walk.repeated), whole=walk.whole)


class _Walk:
    def __init__(self, objects: TorchObjects, source: Sources) -> None:
        self.objects, self.source = objects, source
        self.calls: list[ListedCall] = []
        self.steps, self.letters, self.depth = _MOST_STEPS, _MOST_CODE, 0
        self.words = _MOST_WORDS
        self.whole = True
        self.repeated: list[ListedCall] = []
        self.target = self.calls
        self._parsed: dict[Global | str, Mapping[str, ast.FunctionDef]] = {}

    def method(self, method: _Method, args: Sequence[Any] | None, named: Mapping[str, Any]) -> Any:
        """What a method returns; without arguments, its own are tensors that are not known."""
        kind = method.owner.node.function
        if not isinstance(kind, Global):
            return UNKNOWN
        if kind not in self._parsed:
            self._parsed[kind] = self._functions(self.source.body(kind))
        function = self._parsed[kind].get(method.name)
        if function is None:
            return self._lost()
        if args is None:
            args = [Ref(f"{BETWEEN}{a.arg}") for a in function.args.args[1:]]
        return self._run(function, [method.owner, *args], named)

    def _functions(self, code: str) -> Mapping[str, ast.FunctionDef]:
        self.letters -= len(code)
        if self.letters >= 0:
            self.words -= sum(1 for _ in _WORD.finditer(code))
        if min(self.letters, self.words) < 0:
            raise BncheckError("has too much code to follow", "export it with torch.export")
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return {}
        bodies = [item.body for item in tree.body if isinstance(item, ast.ClassDef)]
        found = [item for body in (tree.body, *bodies) for item in body]
        return {item.name: item for item in found if isinstance(item, ast.FunctionDef)}

    def _run(self, function: ast.FunctionDef, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            raise BncheckError("has code that calls itself", "export it with torch.export")
        words, given = function.args, {a.arg: UNKNOWN for a in function.args.args}
        for argument, default in zip(words.args[::-1], words.defaults[::-1], strict=False):
            given[argument.arg] = self._value(default, {})
        given.update(zip((a.arg for a in words.args), args, strict=False))
        given.update(named)
        result = self._body(function.body, given)
        self.depth -= 1
        return None if result is _NOTHING else result

    def _body(self, statements: Sequence[ast.stmt], names: _Names) -> Any:
        """What is returned, or _NOTHING where the end is reached."""
        for statement in statements:
            result = self._statement(statement, names)
            if result is not _NOTHING:
                return result
        return _NOTHING

    def _statement(self, statement: ast.stmt, names: _Names) -> Any:
        if isinstance(statement, ast.Return):
            return None if statement.value is None else self._value(statement.value, names)
        if isinstance(statement, ast.Assign):
            self._assign(statement.targets[0], statement.value, names)
        elif isinstance(statement, ast.Expr):
            self._value(statement.value, names)
        elif isinstance(statement, ast.If):
            return self._if(statement, names)
        elif isinstance(statement, ast.With):  # of torch.no_grad() and the like
            return self._body(statement.body, names)
        elif not isinstance(statement, ast.Pass):  # a loop: whatever it touches is not known
            self._count(len(names))
            self._repeated(statement, names)
            names.update({k: UNKNOWN for k, v in names.items() if not isinstance(v, _Module)})
        return _NOTHING

    def _repeated(self, statement: ast.stmt, names: _Names) -> None:
        """Walk once through what may run any number of times, and write its calls down apart."""
        body = getattr(statement, "body", ())
        self._count(sum(1 for _ in ast.walk(statement)))
        stored = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
        made = {n.id: UNKNOWN for n in stored if isinstance(n.ctx, ast.Store)}
        before, self.target = self.target, self.repeated
        self._body(body, {**names, **made})
        self.target = before

    def _assign(self, target: ast.expr, value: ast.expr, names: _Names) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = self._value(value, names)
        elif isinstance(target, ast.Tuple):
            found = self._value(value, names, len(target.elts))
            parts = found if isinstance(found, tuple) else ()
            known = [*parts, *[UNKNOWN] * len(target.elts)]
            for name, part in zip(target.elts, known, strict=False):
                if isinstance(name, ast.Name):
                    names[name.id] = part

    def _if(self, statement: ast.If, names: _Names) -> Any:
        test = self._value(statement.test, names)
        if isinstance(test, bool):
            return self._body(statement.body if test else statement.orelse, names)
        self._count(len(names))
        sides = [dict(names), dict(names)]
        bodies = (statement.body, statement.orelse)
        results = [self._body(body, side) for body, side in zip(bodies, sides, strict=True)]
        for name in {*sides[0], *sides[1]}:
            first, second = (side.get(name, UNKNOWN) for side in sides)
            names[name] = first if first == second else UNKNOWN
        if results == [_NOTHING, _NOTHING]:
            return _NOTHING
        return UNKNOWN if _NOTHING not in results else self._lost()

    def _lost(self) -> str:
        """Note that there are calls that are not walked."""
        self.whole = False
        return UNKNOWN

    def _value(self, node: ast.expr, names: _Names, results: int = 1) -> Any:
        self._count(1)
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                return names[name] if name in names else _Path((name,))
            case ast.List(items) | ast.Tuple(items):
                return self._tuple([self._value(item, names) for item in items])
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
                return -number
            case ast.Attribute(owner, name):
                return self._attribute(self._value(owner, names), name)
            case ast.Subscript(whole, index):
                return _item(self._value(whole, names), self._value(index, names))
            case ast.Call(function, args, keywords):
                return self._call(function, args, keywords, names, results)
        return UNKNOWN

    def _count(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise BncheckError("has too much code to follow", "export it with torch.export")

    def _tuple(self, items: Sequence[Any]) -> Any:
        """Lists of lists at most, as operators take them: a list twice in a list, forty times over,
        would be 2^40 values.
        """
        inner = [item for item in items if isinstance(item, tuple)]
        self._count(sum(map(len, inner)))
        nested = any(isinstance(value, tuple) for item in inner for value in item)
        return UNKNOWN if nested else tuple(items)

    def _attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, _Path):
            constant = owner.words == ("CONSTANTS",)
            return Ref(f"CONSTANTS.{name}") if constant else _Path((*owner.words, name))
        if not isinstance(owner, _Module):
            return UNKNOWN
        if name == "training":
            return False
        values = attributes(owner.node)
        if name not in values:
            kind = owner.node.function
            said = self.source.layer(kind).constants if isinstance(kind, Global) else {}
            return said[name] if name in said else _Method(owner, name)
        value = values[name]
        if self.objects.tensor(value) is not None:
            return Ref(f"{owner.prefix}{name}")
        if isinstance(value, Node) and isinstance(value.function, Global):
            return _Module(value, f"{owner.prefix}{name}.")
        return value if value is None or isinstance(value, (bool, int, float)) else UNKNOWN

    def _call(
        self,
        function: ast.expr,
        args: Sequence[ast.expr],
        keywords: Sequence[ast.keyword],
        names: _Names,
        results: int,
    ) -> Any:
        called = self._value(function, names)
        given = [self._value(item, names) for item in args]
        named = {item.arg: self._value(item.value, names) for item in keywords if item.arg}
        if isinstance(called, _Method):
            return self.method(called, given, named)
        if not isinstance(called, _Path):
            return self._lost()
        if called.words == ("getattr",) and len(given) == 2:
            return self._attribute(given[0], str(given[1]))
        if called.words[-1] in _CASTS and len(given) == 2:
            return given[1]
        if called.words[0] == "__torch__":
            return self._function(called.words, given, named)
        if called.words[0] in ("torch", "ops"):
            return self._operator(called.words, tuple(given), named, results)
        return UNKNOWN

    def _function(
        self, words: tuple[str, ...], args: Sequence[Any], named: Mapping[str, Any]
    ) -> Any:
        path = f"code/{'/'.join(words[:-1])}.py"
        if path not in self._parsed:
            self._parsed[path] = self._functions(self.source.file(path))
        function = self._parsed[path].get(words[-1])
        return self._lost() if function is None else self._run(function, args, named)

    def _operator(
        self, words: tuple[str, ...], args: tuple[Any, ...], named: Mapping[str, Any], results: int
    ) -> Any:
        name = words[-1]
        if name in ("__is__", "__isnot__") and len(args) == 2 and UNKNOWN not in args:
            return (args[0] is args[1]) == (name == "__is__")
        aten = len(words) == 2 or words[:2] == ("ops", "aten")
        if name == "chunk" and len(args) > 1 and isinstance(args[1], int):
            results = min(args[1], _MOST_STEPS)
        number = len(self.calls) + len(self.repeated)
        outputs = tuple(f"{BETWEEN}{number}.{i}" for i in range(max(1, results)))
        self._count(len(outputs) + sum(map(_size, (*args, *named.values()))))
        plain = tuple(_plain(item) for item in args)
        known = {key: _plain(value) for key, value in named.items()}
        operator = _SAME.get(name, name) if aten else ""
        self.target.append(ListedCall(operator, plain, outputs, known))
        made = tuple(Ref(output) for output in outputs)
        return made if results > 1 else made[0]


class _Nothing:
    """Where a body ends without a return."""


_NOTHING: Final = _Nothing()


def _item(whole: Any, index: Any) -> Any:
    fits = isinstance(whole, tuple) and isinstance(index, int)
    return whole[index] if fits and -len(whole) <= index < len(whole) else UNKNOWN


def _size(value: Any) -> int:
    return 1 + sum(map(_size, value)) if isinstance(value, tuple) else 1


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return UNKNOWN if isinstance(value, (_Module, _Path, _Method)) else value
