"""A model that is not one graph is folded by parts: docs/folding.md, "Parts".

The largest submodules that are one graph are folded each for itself. What is between them, such as
a detector's choice of boxes, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bncheck.core.errors import BncheckError
from bncheck.folding.difference import relative_error
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.families import Family, Norms
from bncheck.folding.planner.plan import Decision, Status
from bncheck.folding.program.calls_of import (
    HINT,
    Called,
    copied_model,
    recorded,
    run,
    stepped,
    submodule,
)
from bncheck.folding.program.exporting import NotOneGraphError, as_arguments
from bncheck.folding.program.fold import Folding, FoldResult, fold
from bncheck.folding.program.holding import fold_held
from bncheck.folding.program.in_module import FoldedState, applied, compare, is_floating, own
from bncheck.folding.program.parity import Flat, arrays
from bncheck.folding.result import (
    EXCUSE,
    FoldReport,
    Parity,
    PartReport,
    RegionsParity,
    epsilon_for,
    findings_of,
    tolerance_for,
)

BY_PARTS = (
    "is folded by parts, which are not one program",
    "write a .safetensors for bncheck.load_folded (in Python, use .module())",
)
_TRIALS = 3


@dataclass(frozen=True)
class _Part:
    """A submodule that was tried; `state` is its fold, and `reason` why there is none."""

    name: str
    calls: int
    result: FoldResult | None = None
    state: FoldedState | None = None
    reason: str = ""


@dataclass(frozen=True, repr=False)
class PartsResult(Folding):
    """A model whose parts are folded: the model with these parts exchanged, and the report."""

    report: FoldReport
    state: FoldedState
    folded: nn.Module

    @property
    def program(self) -> torch.export.ExportedProgram:
        """There is none."""
        raise BncheckError(*BY_PARTS)

    def module(self) -> nn.Module:
        """The model with its parts folded."""
        return self.folded


def fold_model(
    model: nn.Module | torch.export.ExportedProgram,
    example_inputs: object,
    options: FoldOptions,
    more_inputs: Sequence[Flat] = (),
    names: Sequence[str] = (),
    held: bool = False,
) -> FoldResult | PartsResult:
    """Fold a model whole, or by parts where it is not one graph or these submodules are asked for.

    `held`: only what its modules can hold. Raises BncheckError.
    """
    if isinstance(model, nn.Module) and names:
        return fold_by_parts(model, example_inputs, options, names)
    try:
        if held and isinstance(model, nn.Module):
            return fold_held(model, example_inputs, options, more_inputs)
        return fold(model, example_inputs, options, more_inputs)
    except NotOneGraphError as error:
        assert isinstance(model, nn.Module)
        try:
            return fold_by_parts(model, example_inputs, options, why=error.sentence)
        except BncheckError:
            raise error from None


def fold_by_parts(
    model: nn.Module,
    example_inputs: object,
    options: FoldOptions,
    names: Sequence[str] = (),
    why: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> PartsResult:
    """Fold these submodules, or the largest that are one graph; the model is left as it is.

    `why` is what keeps the whole from being one. Raises BncheckError where no part is one.
    """
    inputs = as_arguments(example_inputs)
    trial = copied_model(model)
    parts = list(_Search(trial, inputs, options, say).run(names))
    folded = {part.name: part for part in parts if part.result is not None}
    if not folded:
        raise BncheckError(*_no_part(parts, bool(names)))
    states = {n: part.state for n, part in folded.items() if part.state is not None}
    state = FoldedState.joined(states, trial)
    new, parity = applied(trial, state), None
    if not options.dry_run:
        say("comparing")
        parity = _parity(trial, new, inputs, folded, options)
    decisions = (*_decisions(folded), *_outside(trial, parts, why))
    told = tuple(_told(part) for part in parts)
    findings = findings_of(decisions, parity, options.fail_unfolded)
    report = FoldReport(decisions, parity, findings=findings, parts=told, whole=why)
    return PartsResult(report, state, new)


class _Search:
    """From the top of a model down to the submodules that are one graph."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        options: FoldOptions,
        say: Callable[[str], None],
    ) -> None:
        self._model, self._inputs, self._options, self._say = model, inputs, options, say

    def run(self, names: Sequence[str]) -> Iterator[_Part]:
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
        """The submodules with norms, those of lists and the like in their places."""
        for child, module in self._model.get_submodule(name).named_children():
            path = f"{name}.{child}" if name else child
            if not any(_is_norm(m, self._options.norms) for m in module.modules()):
                continue
            if type(module) in (nn.ModuleList, nn.ModuleDict):
                yield from self._below(path)
            elif any(True for _ in module.children()):
                yield path

    def _tried(self, name: str, calls: Sequence[Called]) -> _Part:
        try:
            return self._folded(name, calls)
        except BncheckError as error:
            return _Part(name, len(calls), reason=error.sentence)

    def _folded(self, name: str, calls: Sequence[Called]) -> _Part:
        given = [call for call in calls if call is not None]
        if not given:
            what = "is called with keywords alone" if calls else "is not called by the example"
            raise BncheckError(what, HINT)
        part = self._model.get_submodule(name)
        alike = [pytree.tree_leaves(call) for call in given[1:] if _sizes(call) == _sizes(given[0])]
        options = self._renamed(name, part, given[0])
        result = fold(part, own(given[0]), options, alike)
        result.refuse_unsound()
        try:
            state = FoldedState.of(result, part)
            _check(part, applied(part, state), result, given)
        except BncheckError as error:
            raise BncheckError(
                f"is one graph, but no modules can hold its fold: {error.sentence}"
            ) from None
        return _Part(name, len(calls), result, state)

    def _renamed(self, name: str, part: nn.Module, inputs: tuple[Any, ...]) -> FoldOptions:
        """The options with --keep in the part's own names."""
        # A plan alone does not say whether modules can hold the fold.
        options = replace(self._options, fail_unfolded=False, dry_run=False, batch_axes=())
        if not options.keep:
            return options
        plan = fold(part, own(inputs), replace(options, keep=(), dry_run=True))
        kept = [
            decision.name
            for decision in plan.batchnorms
            if any(fnmatchcase(f"{name}.{decision.name}", pattern) for pattern in options.keep)
        ]
        return replace(options, keep=kept)


def _is_norm(module: nn.Module, norms: Norms) -> bool:
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
        error, response = _difference(part, new, call, [part], limit)
        if error > max(limit, EXCUSE * response):
            raise BncheckError("at another size it computes something else")


def _sizes(call: tuple[Any, ...]) -> list[Any]:
    leaves = pytree.tree_leaves(call)
    return [tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in leaves]


def _tolerance(result: FoldResult) -> float:
    return 1e-5 if result.parity is None else max(result.parity.tolerance, 1e-5)


def _no_part(parts: Sequence[_Part], by_hand: bool) -> tuple[str, str]:
    first = parts[0] if parts else None
    if first is None:
        return "has no submodule with a norm that could be folded by itself", HINT
    if by_hand:
        return f"the part {first.name} {first.reason}", HINT
    return f"is not one graph, and neither is a part of it: {first.name} {first.reason}", HINT


def _decisions(folded: Mapping[str, _Part]) -> Iterator[Decision]:
    for name, part in folded.items():
        assert part.result is not None
        for decision in part.result.batchnorms:
            into = tuple(f"{name}.{each}" for each in decision.into)
            yield replace(decision, name=f"{name}.{decision.name}", into=into)


def _outside(model: nn.Module, parts: Sequence[_Part], why: str) -> Iterator[Decision]:
    """The BatchNorms that lie in none of the parts."""
    inside = tuple(f"{part.name}." for part in parts if part.result is not None)
    for name, module in model.named_modules():
        if name.startswith(inside) or any(True for _ in module.children()):
            continue
        if not _is_norm(module, Norms.BATCH):
            continue
        around = [part for part in parts if name.startswith(f"{part.name}.")]
        reason = f"it lies in {around[-1].name}, which {around[-1].reason}" if around else (
            f"it lies in the model itself, which {why}" if why else "it lies outside of these parts"
        )  # fmt: skip
        yield Decision(name, "batch_norm", Status.KEPT, reason=reason, kind=Family.BATCH)


def _told(part: _Part) -> PartReport:
    norms = len(part.result.batchnorms) if part.result else 0
    return PartReport(part.name, part.result is not None, part.calls, norms, part.reason)


def _parity(
    model: nn.Module,
    new: nn.Module,
    inputs: tuple[Any, ...],
    folded: Mapping[str, _Part],
    options: FoldOptions,
) -> Parity:
    """The whole once, as written, and what was seen in the parts.

    A choice among boxes may fall otherwise by rounding: what rounding moves is measured, as the
    response of the original to steps of one unit in the last place of the results of the parts.
    """
    proofs = [part.result.parity for part in folded.values() if part.result is not None]
    seen = [proof for proof in proofs if proof is not None]
    regions = [proof.regions for proof in seen if proof.regions is not None]
    dtypes = _dtypes(model)
    limit = options.tolerance or tolerance_for(dtypes)
    modules = [model.get_submodule(name) for name in folded]
    error, response = _difference(model, new, inputs, modules, limit)
    allowed = max(limit, EXCUSE * response)
    return Parity(
        error,
        response,
        limit,
        tuple(dict.fromkeys(size for proof in seen for size in proof.batches)),
        excess=error / allowed if error > limit else 0.0,
        regions=RegionsParity(
            sum(each.count for each in regions),
            max((each.max_relative_error for each in regions), default=0.0),
        ),
    )


def _difference(
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
            with stepped(layers, epsilon_for(_dtypes(model)), seed):
                response = max(response, _largest(expected, _outputs(model, inputs)))
    return error, response


def _dtypes(model: nn.Module) -> set[str]:
    return {str(p.dtype).removeprefix("torch.") for p in model.parameters()}


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(run(model, inputs)) if is_floating(x)]


def _largest(expected: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> float:
    """The largest relative error; 1 where there are more outputs, or of other sizes."""
    if [x.shape for x in expected] != [x.shape for x in given]:
        return 1.0
    pairs = (arrays(pair) for pair in zip(expected, given, strict=True) if pair[0].numel())
    return max((relative_error(*pair) for pair in pairs), default=0.0)
