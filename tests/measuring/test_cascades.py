"""Hooks on real torch modules: every layout, exact numbers, and a model left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.data import DataOptions, open_data
from bncheck.measuring import collector
from bncheck.measuring.cascades import Cascade, Pass, run_cascade
from bncheck.measuring.collector import SingleValueError
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.moments import packed
from bncheck.measuring.run import Run

torch.set_num_threads(1)


def measured(model: nn.Module, x: Any, cascade: Cascade, batch_size: int = 16) -> Pass:
    return run_cascade(
        Instrumented.of(model), open_data(x, DataOptions(batch_size)), cascade, Run()
    )


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a measurement must not change."""
    return {
        "state": {n: (t.data_ptr(), t.clone()) for n, t in model.state_dict().items()},
        "training": {n: m.training for n, m in model.named_modules()},
        "momentum": {n: getattr(m, "momentum", None) for n, m in model.named_modules()},
        "hooks": {
            n: (len(m._forward_pre_hooks), len(m._forward_hooks)) for n, m in model.named_modules()
        },
        "random": torch.get_rng_state(),
    }


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    for name, (place, tensor) in before["state"].items():
        assert after["state"][name][0] == place, name
        assert after["state"][name][1].numpy().tobytes() == tensor.numpy().tobytes(), name
    for part in ("training", "momentum", "hooks"):
        assert after[part] == before[part]
    assert torch.equal(after["random"], before["random"])


LAYOUTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "(N, C)": (lambda: nn.BatchNorm1d(5), (40, 5)),
    "(N, C, L)": (lambda: nn.BatchNorm1d(5), (40, 5, 7)),
    "(N, C, H, W)": (lambda: nn.BatchNorm2d(5), (40, 5, 3, 4)),
    "(N, C, D, H, W)": (lambda: nn.BatchNorm3d(5), (40, 5, 2, 3, 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_moments_are_numpys(layout: str) -> None:
    make, shape = LAYOUTS[layout]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 2
    seen = measured(nn.Sequential(make()), x, Cascade.EVAL).moments["0"]
    values = x.double().numpy().swapaxes(0, 1).reshape(5, -1)
    np.testing.assert_allclose(seen.mean, values.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(seen.unbiased_var, values.var(axis=1, ddof=1), rtol=1e-6)
    assert seen.images == 40


def test_half_precision_is_measured_in_single() -> None:
    x = torch.randn(64, 4, 8, 8).half() * 50 + 300
    seen = measured(nn.Sequential(nn.BatchNorm2d(4)).half(), x, Cascade.EVAL).moments["0"]
    values = x.double().numpy().swapaxes(0, 1).reshape(4, -1)
    np.testing.assert_allclose(seen.var, values.var(axis=1), rtol=1e-6)


@pytest.mark.parametrize("buffers", ["reset", "right"])
@pytest.mark.parametrize("ratio", [1e3, 1e4])
def test_variance_is_right_far_from_zero_whatever_the_buffers_hold(
    ratio: float, buffers: str
) -> None:
    """fp32 sums of squares are off by a factor of 65 at mean/sd = 1e4."""
    x = torch.randn(256, 3, 4, 4, generator=torch.Generator().manual_seed(1)) + ratio
    model = nn.Sequential(nn.BatchNorm2d(3))
    if buffers == "right":
        model[0].running_mean.fill_(ratio)  # type: ignore[operator]
    seen = measured(model, x, Cascade.EVAL).moments["0"]
    values = x.double().numpy().swapaxes(0, 1).reshape(3, -1)
    np.testing.assert_allclose(seen.var, values.var(axis=1), rtol=1e-6)


class Net(nn.Module):
    """A reused layer, one that never runs, dropout, and a cumulative average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.shared = nn.BatchNorm2d(4, momentum=None)
        self.unused = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 6)
        self.last = nn.BatchNorm1d(6)
        self.explode = -1
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.explode:
            raise RuntimeError("no")
        x = torch.relu(self.shared(self.conv(x)))
        x = torch.relu(self.shared(x[:, :, ::2]))
        out: Tensor = self.last(self.fc(self.drop(x.mean(dim=(2, 3)))))
        return out


@pytest.mark.parametrize("cascade", Cascade)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_bit_for_bit(cascade: Cascade, training: bool) -> None:
    model = Net().train(training)
    model.conv.eval()
    x = torch.randn(64, 2, 8, 8)
    before = snapshot(model)
    seen = measured(model, x, cascade)
    assert_unchanged(model, before)
    assert list(seen.moments) == ["shared", "last"]
    assert seen.moments["shared"].images == 128  # two calls


@pytest.mark.parametrize("cascade", Cascade)
def test_the_model_comes_back_after_an_exception(cascade: Cascade) -> None:
    model = Net().train()
    model.explode = 3
    x = torch.randn(64, 2, 8, 8)
    before = snapshot(model)
    with pytest.raises(BncheckError, match=r"batch 2 .*RuntimeError: no"):
        measured(model, x, cascade)
    assert_unchanged(model, before)


def test_comparing_leaves_the_model_as_it_was() -> None:
    model = Net().train()
    x = torch.randn(64, 2, 8, 8), torch.arange(64) % 6
    before = snapshot(model)
    bncheck.recalibrate(model, x)
    assert_unchanged(model, before)


def test_batch_cascade_is_train_mode_without_dropout() -> None:
    """What each layer sees is what it would see in train(), layer by layer."""
    torch.manual_seed(0)
    model = Net().eval()
    model.unused = nn.BatchNorm2d(4)
    x = torch.randn(48, 2, 8, 8)
    seen = measured(model, x, Cascade.BATCH, batch_size=48)
    caught: list[Tensor] = []
    handle = model.last.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    model.train()
    model.drop.eval()
    with torch.no_grad():
        model(x)
    handle.remove()
    expected = caught[0].double().numpy()
    np.testing.assert_allclose(seen.moments["last"].mean, expected.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(seen.moments["last"].var, expected.var(axis=0), rtol=1e-4)


def test_eval_cascade_of_a_model_in_training_mode_has_dropout_off() -> None:
    model = Net().train()
    first = measured(model, torch.ones(64, 2, 8, 8), Cascade.EVAL).moments["last"]
    second = measured(model, torch.ones(64, 2, 8, 8), Cascade.EVAL).moments["last"]
    assert first.pack().tobytes() == second.pack().tobytes()


def test_one_value_for_each_channel_is_refused_in_the_batch_cascade() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(SingleValueError, match="layer 0"):
        measured(model, torch.randn(80, 3), Cascade.BATCH, batch_size=1)


def test_an_incomplete_last_batch_of_one_image_is_left_out() -> None:
    parts = [torch.randn(16, 3), torch.randn(16, 3), torch.randn(1, 3)]
    seen = run_cascade(
        Instrumented.of(nn.Sequential(nn.BatchNorm1d(3))), open_data(parts), Cascade.BATCH, Run()
    )
    assert seen.skipped == 1
    assert seen.moments["0"].images == 32


def test_nan_in_the_data_names_the_batch() -> None:
    parts = [torch.randn(8, 3), torch.full((8, 3), torch.nan)]
    with pytest.raises(BncheckError, match="batch 1 of the data holds NaN"):
        run_cascade(
            Instrumented.of(nn.Sequential(nn.BatchNorm1d(3))), open_data(parts), Cascade.EVAL, Run()
        )


def test_infinity_between_the_layers_names_the_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        nn.init.constant_(model[0].weight, 3e38)  # type: ignore[arg-type]
    with pytest.raises(BncheckError, match="layer 1 with NaN or infinity"):
        measured(model, torch.randn(64, 3) * 10, Cascade.EVAL)


def test_a_wrong_shape_names_module_and_shape() -> None:
    with pytest.raises(BncheckError, match=r"shape 16x5x8x8 float32 in conv"):
        measured(Net(), torch.randn(64, 5, 8, 8), Cascade.EVAL)


def test_a_model_without_statistics_is_refused() -> None:
    with pytest.raises(BncheckError, match="no normalisation layer"):
        measured(nn.Sequential(nn.Linear(3, 3)), torch.randn(64, 3), Cascade.EVAL)


class Frozen(nn.Module):
    """torchvision's FrozenBatchNorm2d in spirit: buffers, no modes, no counter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)


def test_classes_of_other_people_are_measured_in_both_cascades() -> None:
    x = torch.randn(64, 3, 4, 4) * 5 + 7
    model = nn.Sequential(Frozen(3), Frozen(3))
    seen = measured(model, x, Cascade.BATCH, batch_size=64)
    np.testing.assert_allclose(seen.moments["1"].mean, 0, atol=1e-5)
    np.testing.assert_allclose(seen.moments["1"].var, 1, rtol=1e-4)


def test_memory_does_not_grow_with_the_samples() -> None:
    """What is kept is the moments: the same numbers of bytes after 2 and after 20 batches."""
    sizes = []
    for batches in (2, 20):
        seen = measured(nn.Sequential(nn.BatchNorm2d(3)), torch.randn(16 * batches, 3, 4, 4),
                        Cascade.EVAL)  # fmt: skip
        sizes.append(seen.moments["0"].pack().nbytes)
    assert sizes[0] == sizes[1]


def test_the_moments_of_a_batch_are_computed_for_all_layers_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Layers that see as many images lie side by side, whatever their maps and channels."""
    shapes: list[tuple[int, ...]] = []

    def counted(m: Any, q: Any, values: Any, pivot: Any) -> Any:
        shapes.append(m.shape)
        return packed(m, q, values, pivot)

    monkeypatch.setattr(collector, "packed", counted)
    pool = nn.AvgPool2d(2)
    model = nn.Sequential(nn.BatchNorm2d(3), pool, nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    x = torch.randn(48, 3, 4, 4)
    seen = measured(model, x, Cascade.EVAL, batch_size=16)
    assert shapes == [(16, 8)] * 3
    assert [m.weight for m in seen.moments.values()] == [48 * 16, 48 * 4]
    np.testing.assert_allclose(seen.moments["0"].mean, x.double().mean(dim=(0, 2, 3)), atol=1e-6)


class CalledOnMapsAndVectors(nn.Module):
    """A shared layer, called on maps and then on vectors, beside one that sees vectors twice."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.shared = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(x) + self.other(2 * x)
        maps: Tensor = self.shared(x[:, :, None].expand(-1, -1, 4) + 10).mean(2)
        return torch.add(maps, self.shared(x - 10))


def test_calls_of_a_layer_keep_their_order() -> None:
    seen = measured(CalledOnMapsAndVectors(), torch.randn(32, 3), Cascade.BATCH)
    first, second = seen.calls["shared"]
    assert (first.mean > 5).all()
    assert (second.mean < -5).all()
