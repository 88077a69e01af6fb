"""What expressions of TorchScript code stand for, and the calls of torch that they make."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from bncheck.reading.listing import BETWEEN, ListedCall, Ref
from bncheck.reading.nodes import attributes
from bncheck.reading.pickle_values import Global, Node
from bncheck.reading.statistic_uses import Statistics, refs_of, refusal
from bncheck.reading.torch_objects import TorchObjects
from bncheck.reading.torchscript_code import Sources
from bncheck.reading.torchscript_functions import Functions, TooMuchCodeError
from bncheck.reading.torchscript_values import (
    UNKNOWN,
    Items,
    Method,
    Module,
    Name,
    Object,
    Part,
    Unknown,
    items_of,
    parts_of,
    plain,
)

#: The largest networks take some 100,000 steps.
MOST_STEPS: Final = 500_000
#: What a trace records, and what it has the first arguments of.
_SAME: Final = {"_convolution": "convolution"}
_CASTS: Final = ("annotate", "unchecked_cast")
_UNWRAPS: Final = ("unchecked_unwrap_optional", "_unwrap_optional")
#: Builtins that neither keep nor change what they are given.
_BUILTINS: Final = frozenset(("isinstance", "range", "print", "str", "uninitialized", "wait"))
_PUTS: Final = frozenset(("append", "insert", "extend", "_set_item", "update", "setdefault"))
_CHANGES: Final = _PUTS | {"pop", "clear", "remove", "reverse", "sort", "popitem", "Delete"}

#: Expressions whose value may be, or hold, what they are made of.
_COMBINED: Final = (
    ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Dict, ast.Set, ast.Slice,
    ast.Starred, ast.JoinedStr, ast.FormattedValue,
)  # fmt: skip

Names: TypeAlias = dict[str, Any]


class Expressions(ABC):
    """What is known of a module while its code is walked through."""

    def __init__(self, objects: TorchObjects, source: Sources, statistics: Statistics) -> None:
        self.objects, self.source, self.statistics = objects, source, statistics
        self.functions = Functions(source)
        self.calls: list[ListedCall] = []
        self.repeated: list[ListedCall] = []
        self.target = self.calls
        self.steps = MOST_STEPS
        self.perhaps = 0  # how many conditions and loops around what is walked are not known
        self.whole = True

    @abstractmethod
    def run(self, function: ast.FunctionDef, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What a function of the archive returns."""

    @contextmanager
    def again(self) -> Iterator[None]:
        """What may run any number of times is written down apart."""
        before, self.target = self.target, self.repeated
        self.perhaps += 1
        yield
        self.perhaps -= 1
        self.target = before

    def method(self, method: Method, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What a method returns."""
        function = self.functions.take(method.owner.kind, method.name)
        if function is None:
            return self.lost((method.owner, *args, *named.values()))
        return self.run(function, [method.owner, *args], named)

    def either(self, first: Any, second: Any) -> Any:
        """A value that is one of two."""
        if type(first) is type(second) and first == second:
            return first
        return self.unknown((first, second))

    def unknown(self, value: Any) -> Unknown:
        """What is, or holds, some of the parts of a value."""
        parts = frozenset(self.parts(value))
        self.count(len(parts))
        return Unknown(parts) if parts else UNKNOWN

    def parts(self, value: Any) -> Iterator[Part]:
        """The modules in a value, and the tensors that concern statistics."""
        return parts_of(value, self.statistics.concerns)

    def lost(self, given: Iterable[Any], builtin: bool = False) -> Unknown:
        """What comes of a call that is not walked; a builtin neither keeps nor changes things."""
        self.whole = self.whole and builtin
        made = self.unknown(tuple(given))
        refs = [part for part in made.parts if isinstance(part, Ref)]
        if any(not builtin or self.statistics.must_follow(ref) for ref in refs):
            raise refusal("")
        return made

    def value(self, node: ast.expr, names: Names, results: int = 1) -> Any:
        """What an expression stands for; a call of torch that is unpacked has some results."""
        self.count(1)
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                return names[name] if name in names else Name((name,))
            case ast.List(items):
                values = self._tuple([self.value(item, names) for item in items])
                return Items([*values]) if isinstance(values, tuple) else values
            case ast.Tuple(items):
                return self._tuple([self.value(item, names) for item in items])
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
                return -number
            case ast.Attribute(owner, name):
                return self._attribute(self.value(owner, names), name)
            case ast.Subscript(whole, index):
                return self._item(self.value(whole, names), self.value(index, names))
            case ast.Call(function, args, keywords):
                return self._call(function, args, keywords, names, results)
        if not isinstance(node, _COMBINED):  # nothing that torch.jit.save writes
            raise refusal("")
        return self.unknown(tuple([self.value(each, names) for each in expressions_in(node)]))

    def count(self, steps: int) -> None:
        """Take steps. Raises BncheckError where there are no more."""
        self.steps -= steps
        if self.steps < 0:
            raise TooMuchCodeError

    def _tuple(self, items: Sequence[Any]) -> Any:
        """Lists of lists at most, as operators take them: a list twice in a list, forty times over,
        would be 2^40 values.
        """
        inner = [found for found in map(items_of, items) if found is not None]
        self.count(sum(map(len, inner)))
        nested = any(isinstance(value, (tuple, Items)) for found in inner for value in found)
        return self.unknown(tuple(items)) if nested else tuple(items)

    def _item(self, whole: Any, index: Any) -> Any:
        items = items_of(whole) or ()
        known = type(index) is int and -len(items) <= index < len(items)
        return items[index] if known else self.unknown(whole)

    def _attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Name):
            constant = owner.words == ("CONSTANTS",)
            return Ref(f"CONSTANTS.{name}") if constant else Name((*owner.words, name))
        if isinstance(owner, Object):
            return owner.attributes.get(name, Method(owner, name))
        if isinstance(owner, Module):
            return self._own(owner, name)
        parts = (*self.parts(owner),)
        own = (self._attribute(p, name) for p in parts if isinstance(p, (Module, Object)))
        return self.unknown((Unknown(frozenset(parts)), *own))

    def _own(self, owner: Module, name: str) -> Any:
        """An attribute of a module, in eval mode."""
        values, kind = attributes(owner.node), owner.kind
        if name == "training" and not self.source.assigns(name):
            return False
        if name not in values:
            said = self.source.layer(kind).constants if kind is not None else {}
            return said[name] if name in said else Method(owner, name)
        value = values[name]
        if self.objects.tensor(value) is not None:
            full = f"{owner.prefix}{name}"
            self.statistics.read(full, value)
            return Ref(full)
        if isinstance(value, Node) and str(value.function).startswith("__torch__"):
            return Module(value, f"{owner.prefix}{name}.")
        if self.source.assigns(name):
            return UNKNOWN
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return Unknown(frozenset(self.statistics.within(value)))

    def _call(
        self,
        function: ast.expr,
        args: Sequence[ast.expr],
        keywords: Sequence[ast.keyword],
        names: Names,
        results: int,
    ) -> Any:
        called = self.value(function, names)
        given = [self.value(item, names) for item in args]
        named = {item.arg or "": self.value(item.value, names) for item in keywords}
        if isinstance(called, Method):
            return self.method(called, given, named)
        if isinstance(called, Unknown):
            return self._any_of(called, given, named)
        if not isinstance(called, Name):
            return self.lost((called, *given, *named.values()))
        return self._named(called.words, given, named, results)

    def _any_of(self, called: Unknown, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What one of several methods returns, that of some module in a list."""
        methods = [part for part in called.parts if isinstance(part, Method)]
        if not methods:
            return self.lost((called, *args, *named.values()))
        with self.again():
            made = [self.method(method, args, named) for method in methods]
        return self.unknown(tuple(made))

    def _named(
        self, words: tuple[str, ...], given: list[Any], named: Mapping[str, Any], results: int
    ) -> Any:
        last = words[-1]
        if words == ("getattr",) and len(given) == 2:
            return self._attribute(given[0], str(given[1]))
        if last in _CASTS and len(given) == 2:
            return given[1]
        if last in _UNWRAPS and len(given) == 1:
            return given[0]
        if words[0] == "__torch__":
            return self._function(words, given, named)
        if words[0] in ("torch", "ops"):
            if last in _CHANGES and given and isinstance(given[0], (Items, Unknown)):
                return self._changed(last, given)
            return self._operator(words, tuple(given), named, results)
        everything = (*given, *named.values())
        if words == ("fork",) and len(everything) > 1:
            return self.lost(everything)
        if words == ("fork",) or last in _BUILTINS:
            return self.unknown(everything)
        return self.lost(everything, builtin=True)

    def _changed(self, name: str, given: list[Any]) -> Any:
        """A list or dict that is changed: what is put in one is not followed."""
        if name in _PUTS and any(isinstance(part, Ref) for part in self.parts(tuple(given[1:]))):
            raise refusal("")
        whole, result = given[0], self.unknown(given[0])
        if isinstance(whole, Items):
            plain_one = name == "append" and items_of(given[-1]) is None and not self.perhaps
            known = plain_one and whole.values is not None
            whole.values = [*(whole.values or ()), given[-1]] if known else None
        return result

    def _function(
        self, words: tuple[str, ...], args: Sequence[Any], named: Mapping[str, Any]
    ) -> Any:
        if words[-1] == "__new__":
            return Object(Global(".".join(words[:-2]), words[-2]))
        function = self.functions.take(f"code/{'/'.join(words[:-1])}.py", words[-1])
        if function is not None:
            return self.run(function, args, named)
        if self.source.body(Global(".".join(words[:-1]), words[-1])):  # a NamedTuple
            return self._tuple([*args, *named.values()])
        return self.lost((*args, *named.values()))

    def _operator(
        self, words: tuple[str, ...], args: tuple[Any, ...], named: Mapping[str, Any], results: int
    ) -> Any:
        name = words[-1]
        sure = not any(isinstance(arg, Unknown) for arg in args)
        if name in ("__is__", "__isnot__") and len(args) == 2 and sure:
            return (args[0] is args[1]) == (name == "__is__")
        if name == "__not__" and len(args) == 1 and isinstance(args[0], bool):
            return not args[0]
        aten = len(words) == 2 or words[:2] == ("ops", "aten")
        if name == "chunk" and len(args) > 1 and isinstance(args[1], int):
            results = min(args[1], MOST_STEPS)
        number = len(self.calls) + len(self.repeated)
        outputs = tuple(f"{BETWEEN}{number}.{i}" for i in range(max(1, results)))
        self.count(len(outputs) + sum(map(_size, (*args, *named.values()))))
        known = {key: plain(value) for key, value in named.items()}
        operator = _SAME.get(name, name) if aten else ""
        call = ListedCall(operator, tuple(map(plain, args)), outputs, known)
        self.target.append(call)
        parts = self.parts((*args, *named.values()))
        given = {*refs_of((*call.args, *call.named.values()))}
        unclear = [p for p in parts if isinstance(p, Ref) and p not in given]
        self.statistics.call(".".join(words[1:]), call, unclear)
        made = tuple(Ref(output) for output in outputs)
        return made if results > 1 else made[0]


def _size(value: Any) -> int:
    return 1 + sum(map(_size, items_of(value) or ()))


def expressions_in(node: ast.AST) -> Iterator[ast.expr]:
    """Those that a statement or an expression is made of."""
    return (each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr))
