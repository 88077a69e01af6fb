"""A model that is not one graph is folded by parts: docs/folding.md, "Parts".

The largest submodules that are one graph are folded each for itself. What is between them, such as
a detector's choice of boxes, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bncheck.core.errors import BncheckError
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.families import Norms
from bncheck.folding.planner.plan import Decision, Status
from bncheck.folding.program.calls_of import (
    HINT,
    dtypes_from,
)
from bncheck.folding.program.exporting import NotOneGraphError, as_arguments
from bncheck.folding.program.fold import Folding, FoldResult, fold
from bncheck.folding.program.holding import fold_held
from bncheck.folding.program.in_module import FoldedState, applied
from bncheck.folding.program.parity import Flat
from bncheck.folding.program.part_search import Part, Search, chosen, difference, is_norm
from bncheck.folding.result import (
    EXCUSE,
    FoldReport,
    Parity,
    PartReport,
    RegionsParity,
    findings_of,
    tolerance_for,
)
from bncheck.subject.given import check_module, copied, refuse_scripted

BY_PARTS = (
    "is folded by parts, which are not one program",
    "write a .safetensors for bncheck.load_folded (in Python, use .module())",
)


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
    if not isinstance(model, torch.export.ExportedProgram):
        check_module(model)
        refuse_scripted(model)
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
    trial = copied(model)
    parts = chosen(list(Search(trial, inputs, options, say).run(names)))
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
    findings = findings_of(decisions, parity, options.fail_unfolded, options.tolerance)
    report = FoldReport(decisions, parity, findings=findings, parts=told, whole=why)
    return PartsResult(report, state, new)


def _no_part(parts: Sequence[Part], by_hand: bool) -> tuple[str, str]:
    first = parts[0] if parts else None
    if first is None:
        return "has no submodule with a norm that could be folded by itself", HINT
    if by_hand:
        return f"the part {first.name} {first.reason}", HINT
    return f"is not one graph, and neither is a part of it: {first.name} {first.reason}", HINT


def _decisions(folded: Mapping[str, Part]) -> Iterator[Decision]:
    for name, part in folded.items():
        assert part.result is not None
        for decision in part.result.batchnorms:
            into = tuple(f"{name}.{each}" for each in decision.into)
            own, module = f"{name}.{decision.name}", f"{name}.{decision.layer}"
            yield replace(decision, name=own, module=module, into=into)


def _outside(model: nn.Module, parts: Sequence[Part], why: str) -> Iterator[Decision]:
    """The BatchNorms that lie in none of the parts."""
    inside = tuple(f"{part.name}." for part in parts if part.result is not None)
    for name, module in model.named_modules():
        if name.startswith(inside) or any(True for _ in module.children()):
            continue
        if not is_norm(module, Norms.BATCH):
            continue
        around = [part for part in parts if name.startswith(f"{part.name}.")]
        hint = "leave it, or move it into a submodule that is one graph"
        if around:
            reason = f"it lies in {around[-1].name}, which {around[-1].reason}"
        elif why:
            reason = f"it lies in the model itself, which {why}"
        else:
            reason, hint = "it lies outside of these parts", "name one around it with --part, too"
        yield Decision(name, "batch_norm", Status.KEPT, reason=reason, hint=hint)


def _told(part: Part) -> PartReport:
    norms = len(part.result.batchnorms) if part.result else 0
    return PartReport(part.name, part.result is not None, part.calls, norms, part.reason)


def _parity(
    model: nn.Module,
    new: nn.Module,
    inputs: tuple[Any, ...],
    folded: Mapping[str, Part],
    options: FoldOptions,
) -> Parity:
    """The whole once, as written, and what was seen in the parts.

    A choice among boxes may fall otherwise by rounding: what rounding moves is measured, as the
    response of the original to steps of one unit in the last place of the results of the parts.
    The tolerance is what the dtypes in the parts and behind them need.
    """
    proofs = [part.result.parity for part in folded.values() if part.result is not None]
    seen = [proof for proof in proofs if proof is not None]
    regions = [proof.regions for proof in seen if proof.regions is not None]
    modules = [model.get_submodule(name) for name in folded]
    limit = options.tolerance or tolerance_for(dtypes_from(model, inputs, modules))
    error, response = difference(model, new, inputs, modules, limit)
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
