"""The submodules of a model that are one graph, each folded for itself: parts.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bncheck.core.errors import BncheckError
from bncheck.core.matching import matches
from bncheck.folding.difference import relative_error
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.families import Norms
from bncheck.folding.program.calls_of import HINT, Called, recorded, run, stepped, submodule
from bncheck.folding.program.dtypes import dtypes_of_modules
from bncheck.folding.program.fold import FoldResult, exported, fold
from bncheck.folding.program.holding import NotHeldError, fold_without
from bncheck.folding.program.in_module import FoldedState, applied, compare, is_floating, own
from bncheck.folding.program.parity import arrays
from bncheck.folding.result import EXCUSE, epsilon_for

_TRIALS = 3


@dataclass(frozen=True)
class Part:
    """A submodule that was tried: `state` is its fold, or `reason` says why it has none.

    `lesser` is the same part folded without the norms that its modules cannot hold.
    """

    name: str
    calls: int
    result: FoldResult | None = None
    state: FoldedState | None = None
    reason: str = ""
    lesser: Part | None = None

    @property
    def folds(self) -> int:
        """How many norms go."""
        return 0 if self.result is None else self.result.report.folded


class Search:
    """From the top of a model down to the submodules that are one graph."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        options: FoldOptions,
        say: Callable[[str], None],
    ) -> None:
        self._model, self._inputs, self._options, self._say = model, inputs, options, say

    def run(self, names: Sequence[str]) -> Iterator[Part]:
        """Every submodule that was tried; `names` are tried alone."""
        for name in names:
            submodule(self._model, name)
        waiting = list(names) or list(self._below(""))
        while waiting:
            calls = recorded(self._model, self._inputs, waiting)
            below: list[str] = []
            for name in waiting:
                self._say(f"folding {name}")
                part = self._tried(name, calls[name])
                yield part
                if part.result is None and not names:
                    below += self._below(name)
            waiting = below

    def _below(self, name: str) -> Iterator[str]:
        """The submodules with norms; a ModuleList or ModuleDict counts as its members."""
        for child, module in self._model.get_submodule(name).named_children():
            path = f"{name}.{child}" if name else child
            if not any(is_norm(m, self._options.norms) for m in module.modules()):
                continue
            if type(module) in (nn.ModuleList, nn.ModuleDict):
                yield from self._below(path)
            elif any(True for _ in module.children()):
                yield path

    def _tried(self, name: str, calls: Sequence[Called]) -> Part:
        try:
            return self._folded(name, calls)
        except BncheckError as error:
            return Part(name, len(calls), reason=error.sentence)

    def _folded(self, name: str, calls: Sequence[Called]) -> Part:
        given = [call for call in calls if call is not None]
        if not given:
            what = "is called with keywords alone" if calls else "is not called by the example"
            raise BncheckError(what, HINT)
        part = self._model.get_submodule(name)
        alike = [pytree.tree_leaves(call) for call in given[1:] if _sizes(call) == _sizes(given[0])]
        # A plan alone does not say whether modules can hold the fold.
        options = replace(self._options, fail_unfolded=False, dry_run=False, batch_axes=())
        example = own(given[0])
        program = exported(part, example, options)
        options = _renamed(name, program, example, options)
        whole = fold(program, example, options, alike)
        whole.refuse_unsound()
        try:
            return self._held(name, whole, calls)
        except BncheckError as error:
            lesser = None
            if isinstance(error, NotHeldError):
                with contextlib.suppress(BncheckError):
                    less = fold_without(program, part, example, options, alike, error.norms)
                    less.refuse_unsound()
                    lesser = self._held(name, less, calls)
            reason = f"is one graph, but no modules can hold its fold: {error.sentence}"
            return Part(name, len(calls), reason=reason, lesser=lesser)

    def _held(self, name: str, result: FoldResult, calls: Sequence[Called]) -> Part:
        """The part with the fold in its modules. Raises BncheckError, and NotHeldError."""
        part = self._model.get_submodule(name)
        state = FoldedState.of(result, part)
        given = [call for call in calls if call is not None]
        _check(part, applied(part, state), result, given)
        return Part(name, len(calls), result, state)


def _renamed(
    name: str, program: ExportedProgram, example: tuple[Any, ...], options: FoldOptions
) -> FoldOptions:
    """The options with --keep in the part's own names."""
    if not options.keep:
        return options
    plan = fold(program, example, replace(options, keep=(), dry_run=True))
    kept = [
        decision.name
        for decision in plan.batchnorms
        if any(
            matches(f"{name}.{own}", pattern)
            for own in (decision.name, decision.layer)
            for pattern in options.keep
        )
    ]
    return replace(options, keep=kept)


def chosen(parts: Sequence[Part]) -> list[Part]:
    """The parts to fold: a `lesser` one in place of its own submodules where it folds more."""
    found = {part.name: part for part in parts}
    for part in reversed(parts):
        inner = [name for name in found if name.startswith(f"{part.name}.")]
        if part.lesser is not None and part.lesser.folds > sum(found[n].folds for n in inner):
            found[part.name] = part.lesser
            for name in inner:
                del found[name]
    return list(found.values())


def is_norm(module: nn.Module, norms: Norms) -> bool:
    """Whether a module is one of the normalisations that are to be folded."""
    name = type(module).__name__
    return (
        "Norm" in name
        if norms is Norms.ALL
        else "BatchNorm" in name or (getattr(module, "running_var", None) is not None)
    )


def _check(
    part: nn.Module, new: nn.Module, result: FoldResult, calls: Sequence[tuple[Any, ...]]
) -> None:
    """The part with folded numbers must do what its program does, and at other sizes the part."""
    program, limit = result.module(), _tolerance(result)
    for call in calls:
        if _sizes(call) == _sizes(calls[0]):
            compare(program, new, call, limit)
            continue
        error, response = difference(part, new, call, [part], limit)
        if error > max(limit, EXCUSE * response):
            raise BncheckError("at another size it computes something else")


def _sizes(call: tuple[Any, ...]) -> list[Any]:
    leaves = pytree.tree_leaves(call)
    return [tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in leaves]


def _tolerance(result: FoldResult) -> float:
    return 1e-5 if result.parity is None else max(result.parity.tolerance, 1e-5)


def difference(
    model: nn.Module,
    new: nn.Module,
    inputs: tuple[Any, ...],
    folded: Sequence[nn.Module],
    limit: float,
) -> tuple[float, float]:
    """How far the results are apart, and beyond the limit how far rounding moves the original's.

    That is its response to steps of one unit in the last place of what the layers make that are
    folded.
    """
    expected, given = _outputs(model, inputs), _outputs(new, inputs)
    error, response = _largest(expected, given), 0.0
    if error > limit:
        within = {id(m): m for each in folded for m in each.modules()}
        layers = [m for m in within.values() if not any(True for _ in m.children())]
        for seed in range(_TRIALS):
            with stepped(layers, epsilon_for(dtypes_of_modules(folded)), seed):
                response = max(response, _largest(expected, _outputs(model, inputs)))
    return error, response


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(run(model, inputs)) if is_floating(x)]


def _largest(expected: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> float:
    """The largest relative error; 1 where there are more outputs, or of other sizes."""
    if [x.shape for x in expected] != [x.shape for x in given]:
        return 1.0
    pairs = (arrays(pair) for pair in zip(expected, given, strict=True) if pair[0].numel())
    return max((relative_error(*pair) for pair in pairs), default=0.0)
