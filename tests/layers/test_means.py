"""Means that follow from the affine before a layer and the weights between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.core.errors import BncheckError
from bncheck.layers import means
from bncheck.layers.means import Chain, Chains, adjacent_chains, compared, rectified_mean
from bncheck.layers.norm_layer import Assumptions, NormLayer, find_layers
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.tensors import LoadedTensor
from tests.networks import REAL, findings, healthy_layer, network

_ROLES = ("weight", "bias", "running_mean", "running_var")


def _tensor(array: Any) -> LoadedTensor:
    return LoadedTensor(lambda: array, array.shape)


def _file(
    layers: Sequence[NormLayer], weights: Sequence[Any], roles: Sequence[str] = _ROLES
) -> tuple[list[NormLayer], dict[str, LoadedTensor]]:
    """The layers with weights between, in the order in which a state dict has them."""
    named: list[NormLayer] = []
    tensors: dict[str, LoadedTensor] = {}
    for i, layer in enumerate(layers):
        names = {role: f"{layer.name}.{role}" for role in roles}
        named.append(replace(layer, tensors=names))
        held = {"weight": layer.weight, "bias": layer.bias}
        held |= {"running_mean": layer.mean, "running_var": layer.var}
        tensors |= {name: _tensor(held[role]) for role, name in names.items()}
        if i < len(weights):
            tensors[f"conv{i}.weight"] = _tensor(weights[i])
    return named, tensors


def _sound(depth: int, channels: int = 16, seed: int = 0) -> tuple[list[NormLayer], list[Any]]:
    """Layers whose means are those of rectified Gaussians behind random convolutions."""
    rng = np.random.default_rng(seed)
    layers = [healthy_layer(f"bn{i}", channels, seed + i) for i in range(depth)]
    weights = [rng.normal(0, 0.3, (channels, channels, 3, 3)).astype("f4") for _ in layers[1:]]
    for i, weight in enumerate(weights):
        z = rng.normal(0, 1, (4096, channels))
        gamma, beta = (np.asarray(x, "f8") for x in (layers[i].weight, layers[i].bias))
        x = np.maximum(z * gamma + beta, 0).mean(0)
        layers[i + 1] = replace(layers[i + 1], mean=(weight.sum((2, 3)) @ x).astype("f4"))
    return layers, weights


def _permuted(layer: NormLayer) -> NormLayer:
    assert layer.mean is not None
    return replace(layer, mean=np.roll(layer.mean, 5))


@given(st.floats(-8, 8), st.floats(-8, 8))
def test_the_mean_of_a_rectified_gaussian_is_that_of_its_samples(beta: float, gamma: float) -> None:
    z = np.linspace(-9, 9, 20_001)
    density = np.exp(-(z**2) / 2)
    expected = float((np.maximum(beta + gamma * z, 0) * density).sum() / density.sum())
    found = rectified_mean(np.array([beta]), np.array([gamma]))
    assert float(found[0]) == pytest.approx(expected, abs=1e-6)


def test_neighbours_whose_means_follow_agree_and_permuted_ones_do_not() -> None:
    layers, weights = _sound(6)
    found = adjacent_chains(*_file(layers, weights))
    assert len(found.found) == found.number == 5
    assert min(chain.correlation for chain in found.found) > 0.95
    damaged = [layers[0], *map(_permuted, layers[1:])]
    bad = adjacent_chains(*_file(damaged, weights))
    assert np.median([chain.correlation for chain in bad.found]) < 0.3


@pytest.mark.parametrize("depth", [5, 6])
def test_a_bare_file_is_warned_about_from_four_neighbours_and_never_more(depth: int) -> None:
    layers, weights = _sound(depth)
    damaged = [layers[0], *map(_permuted, layers[1:])]
    for subject, expected in ((layers, []), (damaged, [("BN117", "warning", None)])):
        chains = adjacent_chains(*_file(subject, weights))
        found = [f for f in findings(network(*subject, chains=chains)) if f.rule == "BN117"]
        assert [(f.rule, f.severity.value, f.layer) for f in found] == expected
    few = adjacent_chains(*_file(damaged[:4], weights[:3]))
    assert not [f for f in findings(network(*damaged[:4], chains=few)) if f.rule == "BN117"]


def test_one_bad_neighbour_says_nothing_as_a_skip_may_lie_there() -> None:
    layers, weights = _sound(6)
    layers[3] = _permuted(layers[3])
    chains = adjacent_chains(*_file(layers, weights))
    assert not [f for f in findings(network(*layers, chains=chains)) if f.rule == "BN117"]


def test_a_file_in_another_order_than_a_module_s_has_no_neighbours() -> None:
    """Sorted by name, bn0 and bn1 lie beside a convolution that is not between them."""
    layers, weights = _sound(5)
    roles = sorted(_ROLES)
    assert adjacent_chains(*_file(layers, weights, roles)).number == 0


def test_two_tensors_of_weights_between_are_a_branch_and_no_chain() -> None:
    layers, weights = _sound(3)
    named, tensors = _file(layers, weights)
    order = list(tensors)
    order.insert(order.index("conv0.weight"), "shortcut.weight")
    tensors["shortcut.weight"] = tensors["conv0.weight"]
    found = adjacent_chains(named, {name: tensors[name] for name in order})
    assert [chain.layer for chain in found.found] == ["bn2"]


def test_the_smallest_weights_are_read_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers, weights = _sound(4)
    named, tensors = _file(layers, weights)

    def refuse() -> Any:
        raise AssertionError("read")

    tensors["conv1.weight"] = LoadedTensor(refuse, (16, 16, 5, 5))
    monkeypatch.setattr(means, "MAX_PREDICTING_BYTES", 2 * weights[0].nbytes)
    found = adjacent_chains(named, tensors)
    assert [chain.layer for chain in found.found] == ["bn1", "bn3"]
    assert found.number == 3


def test_depthwise_and_transposed_weights_and_biases_count() -> None:
    layers, _ = _sound(2)
    first = layers[0]
    assert first.weight is not None
    assert first.bias is not None
    given_ = rectified_mean(first.bias.astype("f8"), first.weight.astype("f8"))
    rng = np.random.default_rng(1)
    depthwise = rng.normal(0, 1, (16, 1, 3, 3)).astype("f4")
    transposed = rng.normal(0, 1, (16, 8, 2, 2)).astype("f4")
    bias = rng.normal(0, 1, 16).astype("f4")
    cases = [
        (depthwise, depthwise.sum((1, 2, 3)) * given_ + bias, bias),
        (transposed, transposed.sum((2, 3)).T @ given_, None),
    ]
    for weight, mean, shift in cases:
        after = healthy_layer("bn1", mean.size, mean=mean)
        named, tensors = _file([first, after], [weight])
        if shift is not None:
            tensors["conv0.bias"] = _tensor(shift)
        (chain,) = adjacent_chains(named, tensors).found
        assert chain.correlation == pytest.approx(1)
        assert chain.deviation < 1e-5


def test_few_channels_and_equal_means_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    for size, mean in ((7, rng.normal(size=7)), (16, np.zeros(16))):
        stored = (mean, np.ones(size))
        assert compared("bn", rng.normal(size=size), stored, 1e-5, [], []) is None


def test_a_norm_that_is_defined_before_its_weights_is_not_a_fault() -> None:
    """Each module pair in the file is norm, convolution, and they run the other way round."""
    layers, weights = _sound(7)
    own = [np.random.default_rng(9).normal(0, 0.3, weights[0].shape).astype("f4"), *weights]
    named, tensors = _file(layers, own)
    chains = adjacent_chains(named, tensors)
    assert min(chain.correlation for chain in chains.found) > 0.95
    assert not [f for f in findings(network(*layers, chains=chains)) if f.rule == "BN117"]


def test_buffers_of_another_epoch_are_a_warning_where_a_graph_is_certain() -> None:
    layers = [healthy_layer(f"bn{i}", 16) for i in range(5)]

    def told(deviation: float, number: int) -> list[tuple[str, str | None]]:
        chain = Chain("bn1", ("bn0",), ("conv1",), 16, 0.97, deviation)
        chains = Chains((chain,) * number, 5, certain=True)
        found = findings(network(*layers, chains=chains))
        return [(f.severity.value, f.layer) for f in found if f.rule == "BN117"]

    assert told(0.35, 4) == [("warning", None)]
    assert told(0.25, 4) == told(0.35, 3) == []


def test_weights_that_cannot_be_read_are_left_out_and_the_rest_is_judged() -> None:
    layers, weights = _sound(4)
    named, tensors = _file(layers, weights)

    def damaged() -> Any:
        raise BncheckError("is damaged", "download it again")

    tensors["conv1.weight"] = LoadedTensor(damaged, weights[1].shape)
    tensors["conv2.weight"] = LoadedTensor(damaged, weights[2].shape, damaged)
    found = adjacent_chains(named, tensors)
    assert [chain.layer for chain in found.found] == ["bn1"]
    assert found.number == 3


@pytest.mark.skipif(not (REAL / "snapshots").is_dir(), reason="the real files are not here")
def test_buffers_of_another_epoch_of_one_run_are_found_in_most_pairs() -> None:
    """Weights of one epoch, statistics of another; the file's order is that of the calls here."""
    opened = [open_checkpoint(path) for path in sorted((REAL / "snapshots").iterdir())]
    layers = [find_layers(checkpoint, Assumptions()) for checkpoint in opened]

    def told(weights: int, buffers: int) -> bool:
        pairs = zip(layers[weights], layers[buffers], strict=True)
        mixed = [replace(own, mean=other.mean, var=other.var) for own, other in pairs]
        chains = adjacent_chains(mixed, opened[weights].tensors.lazy)
        subject = network(*mixed, chains=replace(chains, certain=True))
        return any(f.rule == "BN117" for f in findings(subject))

    places = range(0, len(opened), 2)
    assert not any(told(place, place) for place in places)
    others = [told(i, j) for i in places for j in places if i != j]
    assert sum(others) > 0.6 * len(others)


@pytest.mark.parametrize(("noise", "told"), [(3e-7, False), (3e-5, True)])
def test_what_rounding_makes_of_equal_channels_is_not_judged(noise: float, told: bool) -> None:
    """Weights that are all one constant predict one mean for all channels."""
    rng = np.random.default_rng(0)
    other, one = rng.normal(0, 1, 32), np.ones(32)
    alike = 5 + noise * rng.normal(0, 1, 32)
    for predicted, mean in ((alike, other), (other, alike)):
        assert (compared("bn", predicted, (mean, one), 0.0, [], []) is not None) is told
