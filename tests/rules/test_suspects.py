"""A question that is asked of all layers at once hides none from the rule that asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bncheck.layers.channels import Channels, is_regular
from bncheck.layers.norm_layer import NormLayer, Origin, Setting
from bncheck.rules.rule import Network
from tests.networks import findings, healthy_layer, network

_TENSORS = ("mean", "var", "weight", "bias")
_VALUES = (0.0, 1.0, -1.0, 1e-12, 1e-4, 2e-3, 1e30, np.nan, np.inf, -np.inf, 65504.0)
_EPS = (None, 0.0, 1e-5, 1e-3, -1e-5, -1.0, np.nan, np.inf)
_MOMENTUM = (None, 0.0, 0.1, 0.003, 0.9, 1.0, -0.5)
_BATCHES = (None, -1.0, 0.0, 0.5, 1.0, 4.0, 20.0, 150.0, 20_000.0)
_DTYPES = ("float16", "float64", "int32", ml_dtypes.bfloat16)
#: What takes two changes, or a certain size.
_FAULTS: tuple[Callable[[NormLayer], dict[str, Any]], ...] = (
    lambda layer: {"mean": _like(layer, 0), "var": _like(layer, 1)},
    lambda layer: {"mean": _like(layer, 0), "var": _like(layer, 0)},
    lambda layer: {"mean": _like(layer, 0)},
    lambda layer: {"var": _like(layer, 1)},
    lambda layer: {"bias": _like(layer, -5)},
    lambda layer: {"var": _like(layer, 5e-3)},
    lambda layer: {"batches": 15.0, "var": _like(layer, 0.3)},
    lambda layer: {"batches": 5.0, "mean": _like(layer, 0.4)},
)


def _like(layer: NormLayer, value: float) -> Any:
    return np.full(layer.channels, value, np.float32)


class _Unscreened(Network):
    """The same network, whose rules look at every layer."""

    def suspects(
        self, question: Callable[[Channels], object], among: Iterable[NormLayer] | None = None
    ) -> Iterator[NormLayer]:
        return iter(self.tracked if among is None else among)


def _damaged(layer: NormLayer, rng: np.random.Generator) -> NormLayer:
    """The layer with one thing of it changed: a number, a tensor, its type or a setting."""
    name = str(rng.choice(_TENSORS))
    tensor = getattr(layer, name)
    kind = rng.integers(9)
    if kind < 6 and (tensor is None or not tensor.size):
        return layer
    changed: Any
    if kind == 0 and rng.integers(2):
        return replace(layer, **_FAULTS[rng.integers(len(_FAULTS))](layer))
    if kind == 0:
        changed = tensor.copy()
        changed.flat[: rng.integers(1, changed.size + 1)] = rng.choice(_VALUES)
    elif kind == 1:
        changed = np.full_like(tensor, rng.choice(_VALUES))
    elif kind == 2:
        changed = tensor * np.float32(10.0) ** rng.integers(-14, 3)
    elif kind == 3:
        changed = tensor[: rng.choice((0, 1, tensor.size - 1))]
    elif kind == 4:
        changed = tensor.astype(_DTYPES[rng.integers(len(_DTYPES))])
    elif kind == 5:
        changed = None
    elif kind == 6:
        return replace(layer, eps=Setting(_EPS[rng.integers(len(_EPS))], Origin.FILE))
    elif kind == 7:
        value = _MOMENTUM[rng.integers(len(_MOMENTUM))]
        return replace(layer, momentum=Setting(value, Origin.FILE))
    else:
        return replace(layer, batches=_BATCHES[rng.integers(len(_BATCHES))])
    return replace(layer, **{name: changed})


def _some_network(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    layers = []
    for index in range(rng.integers(1, 6)):
        layer = healthy_layer(f"bn{index}", int(rng.choice((1, 2, 8))), seed + index)
        for _ in range(rng.integers(4)):
            layer = _damaged(layer, rng)
        layers.append(layer)
    facts = {"eps": (None, 1e-5, 1e-3)[rng.integers(3)], "knows_modules": bool(rng.integers(2))}
    return network(*layers, **facts)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("first", range(0, 400, 100))
def test_a_question_hides_no_layer_from_its_rule(first: int) -> None:
    seen: set[str] = set()
    for seed in range(first, first + 100):
        screened = _some_network(seed)
        every = _Unscreened(**vars(screened))
        found = findings(screened)
        assert repr(found) == repr(findings(every)), seed
        seen.update(finding.rule for finding in found)
    assert len(seen) > 12


def test_rules_look_at_no_layer_of_a_large_sound_network(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    ask = Network.suspects

    def counting(self: Network, *question: Any) -> Iterator[NormLayer]:
        for layer in ask(self, *question):
            looked.append(layer.name)
            yield layer

    monkeypatch.setattr(Network, "suspects", counting)
    sound = network(*(healthy_layer(f"bn{index}", 8, index) for index in range(300)))
    assert findings(sound) == []
    assert not looked
    damaged = replace(sound.layers[7], var=-np.ones(8, np.float32))
    assert findings(network(*sound.layers[:7], damaged, *sound.layers[8:]))
    assert set(looked) == {"bn7"}


def test_only_layers_with_both_statistics_of_one_length_are_asked() -> None:
    layer = healthy_layer()
    assert is_regular(layer)
    assert is_regular(replace(layer, weight=None, bias=None))
    short, none = np.ones(1, np.float32), np.ones(0, np.float32)
    assert not is_regular(replace(layer, mean=None))
    assert not is_regular(replace(layer, var=None))
    assert not is_regular(replace(layer, var=short))
    assert not is_regular(replace(layer, weight=short))
    assert not is_regular(replace(layer, mean=none, var=none, weight=none, bias=none))


def test_numbers_of_layers_go_to_channels_and_back() -> None:
    layers = [healthy_layer("a", 2), healthy_layer("b", 3, weight=None, batches=None)]
    channels = Channels(layers)
    assert channels.weight[2:].tolist() == [1, 1, 1]
    assert channels.counter.tolist()[0] == 10_000
    assert np.isnan(channels.counter[1])
    assert channels.each(np.array([1.0, 2.0])).tolist() == [1, 1, 2, 2, 2]
    numbers = np.array([1.0, 2, 3, 4, 5])
    assert channels.least(numbers).tolist() == [1, 3]
    assert channels.most(numbers).tolist() == [2, 5]
    assert channels.any(numbers > 4).tolist() == [False, True]
    assert channels.all(numbers < 5).tolist() == [True, False]
