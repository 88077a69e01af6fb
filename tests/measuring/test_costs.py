"""What a pass costs beside the model's own forwards, counted: calls of torch, forwards, merges.

Where a layer is small, every call that is made for it costs as much as the layer itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils._python_dispatch import TorchDispatchMode

import bncheck
from bncheck.data import Batches, open_data
from bncheck.measuring import features, merging, preprocessing, reruns, rounds
from bncheck.measuring.cascades import Cascade, run_cascade
from bncheck.measuring.grading import Answers
from bncheck.measuring.input_watch import InputWatch
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.moments import merged_all
from bncheck.measuring.reruns import Rerunning
from bncheck.measuring.run import Run
from bncheck.measuring.tables import Table
from bncheck.rules.data import bn204_ordered


class Calls(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made[str(func)] += 1
        return func(*args, **(kwargs or {}))


def mlp(layers: int) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for place in range(layers):
        parts += [nn.Linear(16 if place else 8, 16), nn.BatchNorm1d(16), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(16, 4)).eval()


def given(batches: int) -> Batches:
    torch.manual_seed(1)
    return open_data([torch.randn(64, 8) for _ in range(batches)], None)


def calls(layers: int, batches: int, cascade: Cascade | None) -> int:
    """Of a pass with what `inspect` watches in it; None for the model alone."""
    model, data = mlp(layers), given(batches)
    with Calls() as counted, torch.no_grad():
        if cascade is None:
            for batch in data:
                model(*batch.args)
        else:
            watch = InputWatch(model, Run().processes)
            with watch.watching():
                run_cascade(Instrumented.of(model), data, cascade, Run(), Answers())
    return sum(counted.made.values())


def beyond(layers: int, batches: int, cascade: Cascade) -> int:
    return calls(layers, batches, cascade) - calls(layers, batches, None)


@pytest.mark.parametrize(("cascade", "each_batch", "each_layer"), [
    (Cascade.EVAL, 25, 4), (Cascade.BATCH, 36, 12),
])  # fmt: skip
def test_calls_of_torch_for_a_batch_and_for_a_layer_of_it(
    cascade: Cascade, each_batch: int, each_layer: int
) -> None:
    """A layer's input is taken about its pivot; the rest is done for all layers side by side.

    They are 21 and 2, 30 and 10, with room for a torch that dispatches something otherwise. Layer
    by layer they were 35 and 6, 50 and 18.
    """
    one, three = ({n: beyond(layers, n, cascade) for n in (3, 5)} for layers in (1, 3))
    batch = (one[5] - one[3]) / 2
    layer = ((three[5] - three[3]) / 2 - batch) / 2
    assert layer <= each_layer
    assert batch - layer <= each_batch


def test_the_batches_of_a_pass_are_merged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    merges: list[int] = []

    def counted(parts: Sequence[Any]) -> Any:
        merges.append(len(parts))
        return merged_all(parts)

    monkeypatch.setattr(merging, "merged_all", counted)
    run_cascade(Instrumented.of(mlp(3)), given(7), Cascade.EVAL, Run())
    assert merges == [7]


def test_moments_of_batches_wait_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are the same to rounding; nothing grows with the number of batches."""
    model, data = Instrumented.of(mlp(2)), given(9)
    at_once = run_cascade(model, data, Cascade.EVAL, Run()).moments
    monkeypatch.setattr(merging, "_WAITING", 0)
    one_by_one = run_cascade(model, data, Cascade.EVAL, Run()).moments
    for name, found in at_once.items():
        np.testing.assert_allclose(found.pack(), one_by_one[name].pack(), rtol=1e-9, atol=1e-12)


def test_eigenvalues_are_computed_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    conditions = features.conditions_of

    def counted(moments: Any, bias: bool) -> Any:
        asked.append(bias)
        return conditions(moments, bias)

    monkeypatch.setattr(features, "conditions_of", counted)
    report = bncheck.inspect(mlp(2), [torch.randn(64, 8) for _ in range(2)])
    assert not asked
    report.to_dict()
    report.to_dict()
    assert asked == [True]


class Counting(nn.Module):
    """A model that counts its own forwards, by the size of the batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._counted = SimpleNamespace(sizes=Counter[int]())  # what a module holds is put back

    @property
    def sizes(self) -> Counter[int]:
        counted: Counter[int] = self._counted.sizes
        return counted

    def forward(self, x: Tensor) -> Any:
        self.sizes[len(x)] += 1
        return self.model(x)


def test_no_kind_is_run_where_the_first_layer_forbids_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stale in every channel: no shares of classes leave such means before anything is normalised.

    Batches of eight samples of one class each would only find the same.
    """
    data = [torch.randn(64, 8) for _ in range(8)]
    model = mlp(3)
    update_bn(data, model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.get_buffer("running_mean").add_(0.5 * torch.randn(16))
            norm.get_buffer("num_batches_tracked").fill_(10_000)
    known, run = Counting(model.eval()), Counting(model.eval())
    found = bncheck.inspect(known, data).findings
    monkeypatch.setattr(bn204_ordered, "first_layer_forbids", lambda network: False)
    assert bncheck.inspect(run, data).findings == found
    assert (known.sizes[64], known.sizes[8]) == (3 * len(data), 0)
    assert run.sizes[8] > 1


def images(number: int, size: int = 32) -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(number // 2, 3, size, size) for _ in range(2)]


def conv(data: list[Tensor]) -> nn.Sequential:
    """With the statistics of these data."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*parts, nn.Linear(512, 4))
    update_bn(data, model)
    return model.eval()


def test_the_search_takes_images_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 256 images of 224 x 224 are behind 64 channels takes 800 MiB; the results are the same.

    To rounding: moments of portions are merged.
    """
    data = images(192)
    model, scaled = Counting(conv(data)), [3.7 * x + 40 for x in data]
    at_most = model.sizes
    few = bncheck.inspect(model, scaled).measurement
    assert sorted(at_most)[-1] == len(data[0])  # those of the passes
    assert max(size for size in at_most if size != len(data[0])) * 3 * 32 * 32 <= 1 << 18
    monkeypatch.setattr(preprocessing, "portions", lambda x, least: [x])
    whole = bncheck.inspect(model, scaled).measurement
    assert at_most[192] > 0
    assert few is not None
    assert whole is not None
    assert len(few.candidates) > 20
    for one, other in zip(few.candidates, whole.candidates, strict=True):
        assert one.name == other.name
        assert one.w2 == pytest.approx(other.w2, abs=1e-6)


def test_only_ranks_that_may_read_other_data_are_told_a_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(tensors: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(rounds, "digest", refused)
    run_cascade(Instrumented.of(mlp(1)), given(2), Cascade.EVAL, Run())


def test_weights_are_read_only_where_results_are_poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are those of a new layer costs a pass over all weights in float64."""
    read: list[nn.Module] = []

    def noted(model: nn.Module) -> tuple[str, ...]:
        read.append(model)
        return ()

    monkeypatch.setattr(reruns, "untrained_layers", noted)
    data = images(128)
    model = conv(data)
    model[1].get_buffer("running_mean").add_(1.0)
    found = bncheck.inspect(model, data).findings
    assert any(finding.severity.value == "error" for finding in found)
    assert not read
    bncheck.inspect(model, [(x, torch.randint(0, 4, (len(x),))) for x in data])
    assert read


def of_a_table(wide: int = 64) -> tuple[nn.Sequential, Tensor]:
    """A network of so many features, with statistics of these."""
    torch.manual_seed(0)
    x = torch.randn(256, 16) @ torch.randn(16, 16)
    model = nn.Sequential(nn.Linear(16, wide), nn.BatchNorm1d(wide, momentum=None), nn.ReLU(),
                          nn.Linear(wide, 8), nn.BatchNorm1d(8, momentum=None))  # fmt: skip
    model(x)
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = 0.1
    return model.eval(), x


@pytest.mark.parametrize(("stale", "most"), [(True, 0), (False, 3 * 3 + 1)])
def test_of_a_table_few_features_are_fitted_and_none_that_means_rule_out(
    stale: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fit solves some ten systems: of every feature and start, it took most of a diagnosis."""
    fitted = list[list[int]]()
    fit = Table._fit

    def counting(self: Table, chosen: list[int], *start: Any) -> Any:
        fitted.append(chosen)
        return fit(self, chosen, *start)

    monkeypatch.setattr(Table, "_fit", counting)
    model, x = of_a_table()
    if stale:
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += torch.randn(64) * norm.running_var.sqrt()
    else:
        x[:, 3] *= 9
    bncheck.inspect(model, x)
    passes = 2  # on a few samples, and on all
    assert len(fitted) <= passes * most
    assert bool(fitted) != stale


@pytest.mark.parametrize(("factor", "run"), [(10.0, False), (1.3, True)])
def test_batches_of_two_are_not_run_where_the_first_layer_is_too_far_off(
    factor: float, run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three passes in batches of 2, 4 and 8 cost as much as the rest of a diagnosis."""
    sizes = list[int]()
    original = Rerunning.in_batches_of

    def counting(self: Rerunning, size: int, *most: Any) -> Any:
        sizes.append(size)
        return original(self, size, *most)

    monkeypatch.setattr(Rerunning, "in_batches_of", counting)
    model, x = of_a_table()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_var is not None
    norm.running_var *= factor**2 * torch.linspace(0.8, 1.25, 64)
    bncheck.inspect(model, x)
    assert (2 in sizes) == run


def test_what_a_layer_answers_to_features_is_seen_in_one_run_of_all() -> None:
    """Batches of two samples, one for each feature, were most of the forwards of a diagnosis."""
    model, x = of_a_table()
    x[:, 3] *= 9
    counting = Counting(model)
    found = bncheck.inspect(counting, x).measurement
    assert found is not None
    assert found.candidates[0].name.startswith("feature 3 * 0.112")
    passes = 2  # on a few samples, and on all
    assert counting.sizes[1 + x.shape[1]] == passes
    assert counting.sizes[2] < x.shape[1]
