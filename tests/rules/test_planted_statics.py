"""Faults that a file alone shows, planted anywhere in a trained network: BN117 and BN118."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import hypothesis.strategies as st
import numpy as np
from hypothesis import assume, given, settings

from bncheck.graph.dataflow import Graph
from bncheck.graph.listed.read import read_listing
from bncheck.graph.program.traced import traced_listing
from bncheck.inspecting.chains import graph_chains
from bncheck.layers.norm_layer import Assumptions, NormLayer, find_layers
from bncheck.reading.opening import open_checkpoint
from bncheck.subject.model import build_model
from tests.networks import SAMPLES, findings, network

NAMES: Final = ("bn1", "bn2", "bn3", "bn4")
FEW = settings(max_examples=25, deadline=None)


if TYPE_CHECKING:
    from bncheck.reading.tensors import Array


@lru_cache
def _sound() -> tuple[tuple[NormLayer, ...], Graph, dict[str, Array]]:
    checkpoint = open_checkpoint(SAMPLES / "healthy.pt")
    layers = tuple(find_layers(checkpoint, Assumptions()))
    model = build_model(f"{SAMPLES}/nets.py:DigitNet", ()).eval()
    graph = read_listing(traced_listing(model), checkpoint.tensors.lazy)
    return layers, graph, {name: checkpoint.tensors[name] for name in checkpoint.tensors}


def _planted(name: str, **arrays: object) -> tuple[NormLayer, ...]:
    return tuple(
        replace(layer, **arrays) if layer.name == name else layer  # type: ignore[arg-type]
        for layer in _sound()[0]
    )


def _errors(layers: tuple[NormLayer, ...], rule: str) -> list[tuple[str, str | None]]:
    _, graph, tensors = _sound()
    chains = graph_chains(graph, lambda name: tensors[name].astype("f8"), layers)
    found = findings(network(*layers, chains=chains))
    return [(f.severity.value, f.layer) for f in found if f.rule == rule]


def test_the_network_is_sound() -> None:
    assert not _errors(_sound()[0], "BN117")
    assert not _errors(_sound()[0], "BN118")


@given(name=st.sampled_from(NAMES[1:]), seed=st.integers(0, 10_000))
@FEW
def test_a_layer_in_another_order_is_named(name: str, seed: int) -> None:
    layer = next(layer for layer in _sound()[0] if layer.name == name)
    order = np.random.default_rng(seed).permutation(layer.channels)
    assert layer.statistics is not None
    mean = layer.statistics[0]
    assume(np.corrcoef(mean, mean[order])[0, 1] < 0.3)  # by chance they may be alike
    assert _errors(_planted(name, mean=mean[order]), "BN117") == [("error", name)]


@given(name=st.sampled_from(NAMES[1:]), factor=st.floats(-3, -0.5))
@FEW
def test_means_of_the_other_sign_are_named(name: str, factor: float) -> None:
    layer = next(layer for layer in _sound()[0] if layer.name == name)
    assert layer.statistics is not None
    found = _errors(_planted(name, mean=layer.statistics[0] * factor), "BN117")
    assert found == [("error", name)]


@given(name=st.sampled_from(NAMES), mean=st.booleans())
@FEW
def test_half_of_the_statistics_is_named(name: str, mean: bool) -> None:
    layer = next(layer for layer in _sound()[0] if layer.name == name)
    half = {"mean": np.zeros(layer.channels)} if mean else {"var": np.ones(layer.channels)}
    assert _errors(_planted(name, **half), "BN118") == [("error", name)]
