"""What a snapshot of a record says beside its tensors: where the training was, what batches showed.

It stands as JSON in the metadata of a safetensors file, under the key `bncheck`: docs/recording.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bncheck.core.budget import Budget
from bncheck.reading.checkpoint import NormModule, Subtree, as_eps, as_number
from bncheck.reading.json_text import parse
from bncheck.reading.roles import AFFINE, COUNTER, STATISTICS, split_name
from bncheck.reading.tensors import LazyTensor
from bncheck.reading.training_state import Seen, TrainingState

#: The key of the metadata, and what its JSON says that it is.
METADATA: Final = "bncheck"
SCHEMA: Final = "bncheck.snapshot/1"
#: What the moments of a batch are called, beside a layer's own tensors, and the part they make.
BATCH_MOMENTS: Final = {"batch_mean": "running_mean", "batch_var": "running_var"}
BATCH_PART: Final = "batch"
_MOST: Final = 2**63
_OWN: Final = {**STATISTICS, **AFFINE, **COUNTER}


def subtrees_of_snapshot(
    tensors: Mapping[str, LazyTensor], metadata: object, budget: Budget
) -> list[Subtree] | None:
    """The model and what its batches were like; None for a file that is no snapshot of a record."""
    told = told_in(metadata.get(METADATA) if isinstance(metadata, dict) else None, budget)
    if told is None:
        return None
    layers = _layers(told)
    own = {n: t for n, t in tensors.items() if split_name(n)[1] not in BATCH_MOMENTS}
    batch = {_as_statistic(n): t for n, t in tensors.items() if n not in own}
    state = _state(told, layers)
    main = Subtree("", own, _modules(own, layers), main=True, training=state)
    if not batch:
        return [main]
    return [main, Subtree(BATCH_PART, batch, _modules(batch, layers), training=state)]


def told_in(text: object, budget: Budget) -> dict[str, Any] | None:
    """What the metadata of a snapshot say; None where they are none of ours."""
    if not isinstance(text, str):
        return None
    try:
        told = parse(text, budget)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and told.get("schema") == SCHEMA else None


def state_told(told: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], TrainingState]:
    """By layer what is not of its batch, and where the training was, batches included."""
    layers = _layers(told)
    state = _state(told, layers)
    return {n: {k: v for k, v in one.items() if k != "seen"} for n, one in layers.items()}, state


def _layers(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {k: v for k, v in _dict(told.get("layers")).items() if isinstance(v, dict)}


def _as_statistic(name: str) -> str:
    owner, own = split_name(name)
    return f"{owner}.{BATCH_MOMENTS[own]}" if owner else BATCH_MOMENTS[own]


def _state(told: dict[str, Any], layers: Mapping[str, dict[str, Any]]) -> TrainingState:
    weights, bad = told.get("weights"), told.get("bad_weight")
    return TrainingState(
        whole(told.get("step")),
        whole(told.get("epoch")),
        as_number(told.get("lr")),
        as_number(told.get("peak_lr")),
        as_number(told.get("loss")),
        whole(told.get("run")) or 0,
        weights if isinstance(weights, str) else None,
        bad if isinstance(bad, str) else None,
        whole(told.get("bad_since")),
        {name: _seen(layer["seen"]) for name, layer in layers.items() if _dict(layer.get("seen"))},
    )


def _seen(told: dict[str, Any]) -> Seen:
    training = told.get("training")
    return Seen(
        as_number(told.get("w2")),
        as_number(told.get("mean_shift")),
        as_number(told.get("log_variance_ratio")),
        as_number(told.get("images")),
        as_number(told.get("largest")),
        as_number(told.get("apart")),
        rank=whole(told.get("rank")),
        training=training if isinstance(training, bool) else None,
        common=as_number(told.get("common")),
        noise=as_number(told.get("noise")),
        apart_noise=as_number(told.get("apart_noise")),
        debiased=as_number(told.get("debiased")),
    )


def _modules(
    tensors: Mapping[str, LazyTensor], layers: Mapping[str, dict[str, Any]]
) -> dict[str, NormModule]:
    roles: dict[str, dict[str, str]] = {name: {} for name in layers}
    for tensor in tensors:
        owner, own = split_name(tensor)
        if owner in roles and own in _OWN:
            roles[owner][_OWN[own]] = tensor
    return {
        name: _module(layers[name], found)
        for name, found in roles.items()
        if {"running_mean", "running_var"} & found.keys()
    }


def _module(told: dict[str, Any], roles: dict[str, str]) -> NormModule:
    known = "momentum" in told
    momentum = told.get("momentum")
    return NormModule(
        str(told.get("class") or "")[:200],
        roles,
        as_eps(told.get("eps")),
        as_number(momentum),
        known and (momentum is None or as_number(momentum) is not None),
        tracks_statistics=True,  # of its mode nothing: in a training it is no fault
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def whole(value: object) -> int | None:
    """A whole number from 0 to what counters hold, or None for whatever else is in its place."""
    number = as_number(value)
    fits = number is not None and 0 <= number < _MOST and number.is_integer()
    return int(number) if fits and number is not None else None
