"""Which folds the modules of a model can hold, for a state dict that goes back into them.

A program can hold any fold: a call has a weight of its own there, and a norm that is written out
goes. A module must have a place for each number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from bncheck.core.errors import BncheckError
from bncheck.core.words import a_kind
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.normalisations import Normalisation, data_slot
from bncheck.folding.planner.plan import Status
from bncheck.folding.program.exporting import as_arguments, export_program
from bncheck.folding.program.fold import FoldResult, fold
from bncheck.folding.program.parity import Flat
from bncheck.graph.specs import Mul

OTHER_FORM: Final = "write a .pt2 instead"
#: What a weight of one call among several is named.
_CLONE: Final = re.compile(r"(?:weight|bias)_\d+")
_LATER_CALL: Final = re.compile(r"(.+) \(\d+\)")
#: Exactly these: a subclass may do more than normalise, as timm's BatchNormAct2d does.
_PLAIN: Final = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
#: In torchvision, detectron2 and transformers: a product and a sum, and nothing else.
_FROZEN: Final = "FrozenBatchNorm2d"


class NotHeldError(BncheckError):
    """Modules cannot hold the fold of these norms; why, by name."""

    def __init__(self, norms: Mapping[str, str]) -> None:
        super().__init__(next(iter(norms.values())), OTHER_FORM)
        self.norms = norms


def fold_held(
    model: nn.Module,
    example_inputs: object,
    options: FoldOptions,
    more_inputs: Sequence[Flat] = (),
) -> FoldResult:
    """As `fold`, without what modules cannot hold: that is planned again, and stays.

    Raises BncheckError.
    """
    arguments = as_arguments(example_inputs)
    program = export_program(model, arguments, options.batch_axes)
    return fold_without(program, model, arguments, options, more_inputs)


def fold_without(
    program: ExportedProgram,
    model: nn.Module,
    arguments: tuple[Any, ...],
    options: FoldOptions,
    more_inputs: Sequence[Flat] = (),
    known: Mapping[str, str] = MappingProxyType({}),
) -> FoldResult:
    """The same of a module's program; `known` are norms that are not held, and why.

    Raises BncheckError.
    """
    not_held = dict(known)
    while True:
        # A plan alone does not say which tensors the fold has.
        tried = replace(options, dry_run=False, not_held=dict(not_held))
        result = fold(program, arguments, tried, more_inputs)
        try:
            check_held(result, model)
        except NotHeldError as error:
            if error.norms.keys() <= not_held.keys():
                raise
            not_held |= error.norms
        else:
            planned = replace(tried, dry_run=True)
            return fold(program, arguments, planned) if options.dry_run else result


def removed_modules(result: FoldResult) -> list[str]:
    """The modules whose every call is a norm that goes; they become Identity."""
    return list(dict.fromkeys(map(_module_of, _removed(result))))


def _removed(result: FoldResult) -> list[str]:
    """The norms that go, each a call."""
    stay = {norm.name for norm in result.solution.plan.norms if norm.only_forwards}
    gone = (d.name for d in result.batchnorms if d.status is not Status.KEPT)
    return [name for name in gone if name not in stay]


def _module_of(norm: str) -> str:
    """The module of a call, of which later ones are numbered: `bn (2)`."""
    numbered = _LATER_CALL.fullmatch(norm)
    return numbered[1] if numbered else norm


def bare_modules(result: FoldResult) -> list[str]:
    """The modules that lose their weight and bias, each with all of its calls."""
    return list(dict.fromkeys(map(_module_of, _bare(result))))


def _bare(result: FoldResult) -> list[str]:
    """The norms whose call loses its weight and bias."""
    weights = result.solution.weights
    norms = result.solution.plan.norms
    bare = (n for n in norms if n.bare and not n.of_weight and n.last in weights)
    return [norm.name for norm in bare if weights[norm.last].plain]


def plain_weights(result: FoldResult) -> list[str]:
    """The modules whose weight is no longer computed."""
    return [norm.name for norm in result.solution.plan.norms if norm.of_weight]


def check_held(result: FoldResult, model: nn.Module) -> None:
    """Raise NotHeldError with every norm whose fold no module can hold."""
    found: dict[str, str] = {}
    for name, reason in (*_of_calls(result), *_of_norms(result, model), *_of_keys(result, model)):
        found.setdefault(name, reason)
    if found:
        raise NotHeldError(found)


def _of_calls(result: FoldResult) -> Iterator[tuple[str, str]]:
    """Calls that become others, and numbers that no parameter holds."""
    graph, plan = result.solution.graph, result.solution.plan
    for name, indices in plan.targets.items():
        for index in indices:
            if index in plan.folds and plan.folds[index].as_shuffle:
                yield name, f"{graph.ops[index].label} becomes another operation"
    for name, places in plan.edits.items():
        if places:
            yield name, "constants in the model's forward change"
    for name, indices in plan.taken.items():
        for index in indices:
            yield name, f"{graph.ops[index].called} in the model's forward goes"


def _of_norms(result: FoldResult, model: nn.Module) -> Iterator[tuple[str, str]]:
    modules = dict(model.named_modules())
    kept = {_module_of(d.name) for d in result.batchnorms if d.status is Status.KEPT}
    for name in (*_removed(result), *_bare(result)):
        if _module_of(name) in kept:
            yield name, f"not all calls of {_module_of(name)} can be folded"
    for name in _removed(result):
        if (reason := why_not_identity(modules, _module_of(name))) is not None:
            yield name, reason
    for name in plain_weights(result):
        if (reason := why_not_plain(modules, name)) is not None:
            yield name, reason
    for name in _bare(result):
        if _module_of(name) not in modules:
            yield name, f"the norm {name} is not a module"
    for norm in _written_out(result):
        try:
            neutral_of(result, norm, model)
        except BncheckError as error:
            yield norm.name, error.sentence


def _of_keys(result: FoldResult, model: nn.Module) -> Iterator[tuple[str, str]]:
    """Numbers that are new, and the norms that went where they belong."""
    graph, targets = result.solution.graph, result.solution.plan.targets
    modules, own = dict(model.named_modules()), model.state_dict()
    plain = plain_weights(result)
    for key in result.program.state_dict:
        reason = None if key in own else why_not_added(modules, key, plain)
        owner = key.rpartition(".")[0]
        for name, indices in targets.items() if reason is not None else ():
            if any(graph.ops[index].label == owner for index in indices):
                yield name, str(reason)


def why_not_identity(modules: Mapping[str, nn.Module], name: str) -> str | None:
    """Why an Identity cannot stand for a norm."""
    norm = modules.get(name)
    if type(norm) in _PLAIN or type(norm).__name__.endswith(_FROZEN):
        return None
    what = "not a module" if norm is None else a_kind(norm)
    return f"the norm {name} is {what}, which an identity cannot replace"


def why_not_plain(modules: Mapping[str, nn.Module], name: str) -> str | None:
    """Why a module cannot get a weight instead of one that it computes."""
    computed = getattr(modules.get(name), "parametrizations", {})
    return None if set(computed) == {"weight"} else f"the weight of {name} is computed otherwise"


def why_not_added(modules: Mapping[str, nn.Module], key: str, plain: list[str]) -> str | None:
    """Why no module can hold a tensor that the model had not."""
    owner, _, role = key.rpartition(".")
    if _CLONE.fullmatch(role):
        return f"{owner} is called more than once, and its calls need weights of their own"
    if role == "weight" and owner in plain:
        return None
    free = role in ("weight", "bias") and getattr(modules.get(owner), role, 0) is None
    return None if free else f"no module of the model can hold {key}"


def _written_out(result: FoldResult) -> list[Normalisation]:
    """The norms whose affine, calls of its own at their end, goes."""
    plan = result.solution.plan
    return [n for n in plan.norms if n.only_forwards and not n.bare and n.last in plan.bypassed]


def neutral(result: FoldResult, model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters with which norms that are written out change nothing at their end."""
    found: dict[str, torch.Tensor] = {}
    for norm in _written_out(result):
        found |= neutral_of(result, norm, model)
    return found


def neutral_of(
    result: FoldResult, norm: Normalisation, model: nn.Module
) -> dict[str, torch.Tensor]:
    """Ones and zeros; where the graph adds 1 to a parameter, zeros."""
    graph, stored = result.solution.graph, model.state_dict()
    found: dict[str, torch.Tensor] = {}
    for op in (graph.ops[index] for index in norm.ops):
        name = op.inputs[1 - data_slot(graph, op)] or ""
        labels = [graph.values[name].label, *graph.values[name].made_from]
        keys, number = [label for label in labels if label in stored], graph.constant(name)
        if len(keys) != 1 or number is None or number.size != stored[keys[0]].numel():
            raise BncheckError(f"{op.label} multiplies with what is not a parameter", OTHER_FORM)
        wanted = 1.0 if isinstance(op.spec, Mul) else 0.0
        offset = number.reshape(-1) - stored[keys[0]].detach().double().numpy().reshape(-1)
        if np.ptp(offset) > 1e-6:
            raise BncheckError(f"{op.label} computes its scale of {keys[0]}", OTHER_FORM)
        if keys[0] in result.program.state_dict:
            raise BncheckError(f"{keys[0]} is read by what is not folded, too", OTHER_FORM)
        value = wanted - round(float(offset.mean()), 6)
        found[keys[0]] = torch.full_like(stored[keys[0]], value)
    return found
