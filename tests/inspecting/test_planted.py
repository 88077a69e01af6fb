"""Healthy files damaged in every way the rules know, at random layers, channels and magnitudes.

Each fault must be found, at the right layer, with nothing else new: what the healthy file has to
say is subtracted. Real files are used where they are present, sample models everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.tensors import LazyTensor, LoadedTensor, TensorMap
from tests.networks import REAL, SAMPLES

Tensors = dict[str, Any]
Damage = Callable[[Tensors, str, np.random.Generator], set[tuple[str, str]]]

HEALTHY = [SAMPLES / "healthy.pt", SAMPLES / "healthy.safetensors"]
HEALTHY += sorted((REAL / "checkpoints").glob("*"))


@cache
def opened(path: Path) -> tuple[Checkpoint, Tensors, frozenset[tuple[str, str, str | None]]]:
    checkpoint = open_checkpoint(path)
    tensors = {name: checkpoint.tensors[name] for name in checkpoint.tensors}
    return checkpoint, tensors, frozenset(found(checkpoint, InspectOptions()))


def found(checkpoint: Checkpoint, options: InspectOptions) -> set[tuple[str, str, str | None]]:
    report = inspect_checkpoint(checkpoint, options)
    return {(f.rule, f.severity.value, f.layer) for f in report.findings}


def with_tensors(checkpoint: Checkpoint, tensors: Tensors) -> Checkpoint:
    lazy: dict[str, LazyTensor] = {
        name: LoadedTensor(array.copy, array.shape) for name, array in tensors.items()
    }
    return replace(checkpoint, tensors=TensorMap(lazy))


def some(rng: np.random.Generator, array: Any) -> Any:
    """A random, non-empty choice of channels."""
    number = int(rng.integers(1, array.size + 1))
    return rng.choice(array.size, number, replace=False)


def reset(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    tensors[f"{layer}.running_mean"] *= 0
    tensors[f"{layer}.running_var"] = np.ones_like(tensors[f"{layer}.running_var"])
    return {("BN101", "error")}


def poison(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    array = tensors[f"{layer}.{rng.choice(['running_mean', 'running_var'])}"]
    array[some(rng, array)] = rng.choice([np.nan, np.inf])
    return {("BN102", "error")}


def negate(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    array = tensors[f"{layer}.running_var"]
    array[some(rng, array)] = -(10.0 ** rng.uniform(-9, 2))
    return {("BN103", "error")}


def lose(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    lost = [["running_mean"], ["running_var"], ["running_mean", "running_var"]]
    for name in lost[int(rng.integers(3))]:
        del tensors[f"{layer}.{name}"]
    return {("BN104", "error")}


def lose_buffers(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        tensors.pop(f"{layer}.{name}", None)
    return {("BN104", "error")}


def cool(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    """As after few updates: most of the average is still 0 and 1."""
    steps = int(rng.integers(1, 4))
    w0 = 0.9**steps
    mean, var = tensors[f"{layer}.running_mean"], tensors[f"{layer}.running_var"]
    # Far from 0 and 1, or the initial values would be as good as the warm ones.
    tensors[f"{layer}.running_mean"] = (1 - w0) * (mean + 2)
    tensors[f"{layer}.running_var"] = (1 - w0) * (var + 4) + w0
    tensors[f"{layer}.num_batches_tracked"] = np.array(steps)
    return {("BN105", "info"), ("BN107", "info")}


def spoil_counter(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    value = [0, -3, 0.5, float(rng.uniform(2, 1e6)) // 1 + 0.25][int(rng.integers(4))]
    tensors[f"{layer}.num_batches_tracked"] = np.array(value)
    return {("BN106", "info")}


def double_counter(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    tensors[f"{layer}.num_batches_tracked"] = tensors[f"{layer}.num_batches_tracked"] * 2
    return {("BN107", "warning")}


def saturate(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    mean = tensors[f"{layer}.running_mean"].astype(np.float16)
    mean[some(rng, mean)] = rng.choice([-1, 1]) * np.finfo(np.float16).max
    tensors[f"{layer}.running_mean"] = mean
    return {("BN108", "warning")}


def halve(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    name = f"{layer}.running_mean"
    tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
    return {("BN108", "info")}


def kill(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    array = tensors[f"{layer}.running_var"]
    dead = some(rng, array)
    array[dead] = 10.0 ** rng.uniform(-30, -11)
    weight = tensors[f"{layer}.weight"]
    weight[dead] = np.clip(weight[dead], -0.05, 0.05)  # else its gain is worth a word, too
    return {("BN109", "info")}


def amplify(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    var, weight = tensors[f"{layer}.running_var"], tensors[f"{layer}.weight"]
    gain = np.abs(weight) / np.sqrt(var + 1e-5)
    channel = int(rng.integers(weight.size))
    weight[channel] = 10.0 ** rng.uniform(2.1, 4) * np.median(gain) * np.sqrt(var[channel] + 1e-5)
    return {("BN110", "info")}


def fade(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    weight = tensors[f"{layer}.weight"]
    weight[int(rng.integers(weight.size))] = np.median(np.abs(weight)) * 10.0 ** rng.uniform(
        -8, -2.1
    )
    return {("BN111", "info")}


def shrink(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    var = tensors[f"{layer}.running_var"]
    tensors[f"{layer}.running_var"] = np.full_like(var, 10.0 ** rng.uniform(-3.9, -2.5))
    tensors[f"{layer}.weight"] = np.full_like(tensors[f"{layer}.weight"], 0.09)
    tensors[f"{layer}.bias"] = np.zeros_like(tensors[f"{layer}.bias"])
    return {("BN114", "info")}


def shut(tensors: Tensors, layer: str, rng: np.random.Generator) -> set[tuple[str, str]]:
    weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
    channel = int(np.argmax(np.abs(weight)))
    bias[channel] = -rng.uniform(3.01, 50) * abs(weight[channel])
    return {("BN115", "info")}


NEEDS_COUNTER = {cool, spoil_counter, double_counter}
DAMAGES: list[Damage] = [
    reset, poison, negate, lose, lose_buffers, cool, spoil_counter, double_counter,
    saturate, halve, kill, amplify, fade, shrink, shut,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_damage_is_found_where_it_was_done(damage: Damage, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(HEALTHY))
    checkpoint, healthy, before = opened(path)
    layers = sorted(n.removesuffix(".running_mean") for n in healthy if n.endswith("running_mean"))
    layer = data.draw(st.sampled_from(layers))
    if damage in NEEDS_COUNTER and not healthy.get(f"{layer}.num_batches_tracked", 0) > 0:
        return
    tensors = {name: array.copy() for name, array in healthy.items()}
    expected = damage(tensors, layer, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    after = found(with_tensors(checkpoint, tensors), InspectOptions())
    # Damage may hide what the layer had to say before (NaN has no gain), never what others had.
    assert {f for f in before if f[2] != layer} <= after
    new = {(rule, severity) for rule, severity, at in after - before if at == layer}
    assert expected <= new | {(rule, severity) for rule, severity, at in before if at == layer}
    assert new <= expected | CONSEQUENCES.get(damage, set())
    assert {f for f in after - before if f[2] != layer} == set()


#: What a damage may bring along, for reasons that are in the damaged layer itself.
CONSEQUENCES: dict[Damage, set[tuple[str, str]]] = {
    reset: {("BN106", "info")},
    # A changed variance or weight moves the median that gain and scale are held against.
    poison: {("BN110", "info"), ("BN111", "info")},
    kill: {("BN110", "info"), ("BN111", "info"), ("BN115", "info"), ("BN114", "info")},
    amplify: {("BN111", "info"), ("BN115", "info")},
    fade: {("BN111", "info"), ("BN115", "info")},
    cool: {("BN106", "info"), ("BN110", "info")},
    saturate: {("BN106", "info")},
    spoil_counter: {("BN107", "info")},
    shrink: {("BN110", "info"), ("BN106", "info")},
}


def test_healthy_files_give_neither_error_nor_warning() -> None:
    files = [*HEALTHY, *sorted((REAL / "snapshots").glob("*")), *sorted((REAL / "onnx").glob("*"))]
    files += [path for path in SAMPLES.glob("healthy*") if path not in files]
    assert len(files) >= 9
    for path in files:
        assert not {f for f in opened(path)[2] if f[1] != "info"}, path
