"""The calls of a TorchScript module in eval mode, found by walking through the code of its forward.

Nothing is executed: names stand for modules, tensors (Ref) and plain values, calls of torch's
operators are written down, and what is not understood is Unknown, as is what comes of it. Both
sides of a condition that is not known are walked, and what they do not agree on is Unknown.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bncheck.reading.listing import BETWEEN, Listing, Ref
from bncheck.reading.pickle_values import Node
from bncheck.reading.roles import looks_like_a_statistic
from bncheck.reading.statistic_uses import Statistics, refusal, written
from bncheck.reading.torch_objects import TorchObjects
from bncheck.reading.torchscript_code import Sources
from bncheck.reading.torchscript_expressions import Expressions, Names, expressions_in
from bncheck.reading.torchscript_functions import TooMuchCodeError
from bncheck.reading.torchscript_values import UNKNOWN, Method, Module, Object, Unknown, items_of

_MOST_DEPTH: Final = 60


def listed_forward(
    root: Node,
    objects: TorchObjects,
    source: Sources,
    prefix: str = "",
    statistics: Statistics | None = None,
) -> Listing:
    """The calls of a module's forward; its tensors' names start with the prefix.

    `statistics` are told of them one by one. Raises BncheckError where the code is beyond limits,
    or does with statistics what cannot be followed.
    """
    walk = _Walk(objects, source, statistics or Statistics())
    walk.module(Module(root, prefix))
    return Listing(tuple(walk.calls), repeated=tuple(walk.repeated), whole=walk.whole)


class _Nothing:
    """Where a body ends without a return."""


class _Perhaps(tuple[Any]):
    """What is returned if one side of a condition is taken, which returns, and not the other."""


_NOTHING: Final = _Nothing()


class _Walk(Expressions):
    depth = 0

    def module(self, root: Module) -> None:
        """Walk through forward, and through what a caller may call beside it."""
        if root.kind is None:
            return
        self._entered(root, "forward")
        for name in self.functions.for_callers(root.kind):
            self._entered(root, name)
        if not self.whole and self.functions.left_out():
            raise refusal("")

    def _entered(self, root: Module, name: str) -> None:
        """Walk through a method that is given tensors of which nothing is known."""
        function = self.functions.take(root.kind, name)
        if function is None:
            self.whole = False
        else:
            self.run(function, [root, *map(_argument, function.args.args[1:])], {})

    def run(self, function: ast.FunctionDef, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What it returns, None where it comes to its end."""
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            raise TooMuchCodeError("has code that calls itself")
        words, given = function.args, {a.arg: UNKNOWN for a in function.args.args}
        for argument, default in zip(words.args[::-1], words.defaults[::-1], strict=False):
            given[argument.arg] = self.value(default, {})
        given.update(zip((a.arg for a in words.args), args, strict=False))
        given.update(named)
        result = self._body(function.body, given)
        self.depth -= 1
        if isinstance(result, _Perhaps):
            return self.either(result[0], None)
        return None if result is _NOTHING else result

    def _body(self, statements: Sequence[ast.stmt], names: Names) -> Any:
        """What is returned, _Perhaps, or _NOTHING where the end is reached."""
        before: _Perhaps | None = None
        for statement in statements:
            result = self._statement(statement, names)
            if isinstance(result, _Perhaps):
                before = result if before is None else _Perhaps((self.either(*before, *result),))
            elif result is not _NOTHING:
                return result if before is None else self.either(before[0], result)
        return _NOTHING if before is None else before

    def _statement(self, statement: ast.stmt, names: Names) -> Any:
        match statement:
            case ast.Return(value):
                return None if value is None else self.value(value, names)
            case ast.Assign([target], value) | ast.AnnAssign(target, _, ast.expr() as value):
                self._assign(target, value, names)
            case ast.Expr(value):
                self.value(value, names)
            case ast.If():
                return self._if(statement, names)
            case ast.With(items, body):  # of torch.no_grad() and the like
                within = [self.value(item.context_expr, names) for item in items]
                for each in (one for one in within if isinstance(one, Object)):
                    self.method(Method(each, "__enter__"), [], {})
                    self.method(Method(each, "__exit__"), [], {})
                return self._body(body, names)
            case ast.FunctionDef(name, _, body):  # what a task runs beside
                with self.again():
                    names[name] = self.unknown(self._body(body, dict(names)))
                self.whole = self.whole and not statement.args.args
            case ast.For() | ast.While():
                return self._loop(statement, names)
            case ast.Pass():
                pass
            case ast.Assert() | ast.Raise() | ast.AugAssign() | ast.Delete():
                self.lost([self.value(e, names) for e in expressions_in(statement)])
            case _:  # nothing that torch.jit.save writes
                raise refusal("")
        return _NOTHING

    def _loop(self, statement: ast.For | ast.While, names: Names) -> Any:
        """Walk once through what may run any number of times, and again where it hands on parts."""
        nodes = [*ast.walk(statement)]
        self.count(len(nodes))
        over = statement.iter if isinstance(statement, ast.For) else statement.test
        made = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        handed = Unknown(frozenset(self.parts(self.value(over, names))))
        result: Any = _NOTHING
        while True:
            before = handed
            within = {**names, **dict.fromkeys(made, handed)}
            with self.again():
                result = self._body(statement.body, within)
                self.value(over, within)
            found = [p for n in made for p in self.parts((within[n], names.get(n)))]
            handed = Unknown(handed.parts.union(found))
            if handed == before:
                break
        names.update(dict.fromkeys(made, handed))
        if result is _NOTHING:
            return _NOTHING
        return result if isinstance(result, _Perhaps) else _Perhaps((result,))

    def _assign(self, target: ast.expr, value: ast.expr, names: Names) -> None:
        if not isinstance(target, (ast.Tuple, ast.List)):
            self._put(target, self.value(value, names), names)
            return
        number = len(target.elts)
        found = self.value(value, names, number)
        items = items_of(found)
        parts = [self.unknown(found)] * number if items is None else [*items, *[UNKNOWN] * number]
        for name, part in zip(target.elts, parts, strict=False):
            self._put(name, part, names)

    def _put(self, target: ast.expr, value: Any, names: Names) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
            return
        owner: Any = UNKNOWN
        if isinstance(target, (ast.Attribute, ast.Subscript)):
            owner = self.value(target.value, names)
        own = target.attr if isinstance(target, ast.Attribute) else ""
        given = value if own else (value, owner)  # x[0] = y writes into x
        refs = any(isinstance(part, Ref) for part in self.parts(given))
        if isinstance(owner, Object) and own and not (refs and self.perhaps):
            known = owner.attributes.get(own, UNKNOWN)
            owner.attributes[own] = self.either(known, value) if self.perhaps else value
        elif refs or looks_like_a_statistic(own):
            raise written()

    def _if(self, statement: ast.If, names: Names) -> Any:
        test = self.value(statement.test, names)
        if isinstance(test, bool):
            return self._body(statement.body if test else statement.orelse, names)
        self.count(len(names))
        sides = [dict(names), dict(names)]
        bodies = (statement.body, statement.orelse)
        self.perhaps += 1
        results = [self._body(body, side) for body, side in zip(bodies, sides, strict=True)]
        self.perhaps -= 1
        ended = [r is not _NOTHING and not isinstance(r, _Perhaps) for r in results]
        if all(ended):
            return self.either(*results)
        open_sides = [s for s, end in zip(sides, ended, strict=True) if not end]
        for name in {*sides[0], *sides[1]}:
            values = [side.get(name, UNKNOWN) for side in open_sides]
            names[name] = self.either(values[0], values[-1])
        returned = [r[0] if isinstance(r, _Perhaps) else r for r in results if r is not _NOTHING]
        return _Perhaps((self.either(returned[0], returned[-1]),)) if returned else _NOTHING


def _argument(parameter: ast.arg) -> Any:
    """What a caller gives: a tensor, unless it may be None."""
    words = ast.walk(parameter.annotation) if parameter.annotation else ()
    optional = any(isinstance(word, ast.Name) and word.id == "Optional" for word in words)
    return UNKNOWN if optional else Ref(f"{BETWEEN}{parameter.arg}")
