"""What is measured of a layer is what its own train() takes from a batch, or nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.data import open_data
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.proving import proven
from bncheck.measuring.run import Run


class Masked(nn.BatchNorm1d):
    """Over the valid places of (N, C, L), which a second input marks."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        assert self.momentum is not None
        if self.training:
            weight = mask[:, None].to(x.dtype)
            n = weight.sum()
            m = (x * weight).sum((0, 2)) / n
            v = ((x - m[:, None]).square() * weight).sum((0, 2)) / n
            with torch.no_grad():
                mean.lerp_(m, self.momentum)
                var.lerp_(v * n / (n - 1), self.momentum)
            mean, var = m, v
        y: Tensor = (x - mean[:, None]) / (var[:, None] + self.eps).sqrt()
        return (y * self.weight[:, None] + self.bias[:, None]) * mask[:, None]


class Sequences(nn.Module):
    """Padded sequences, which are long or short."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(4, 8, 3, padding=1), Masked(8)
        self.conv2, self.bn2 = nn.Conv1d(8, 8, 3, padding=1), Masked(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        mask = torch.arange(x.shape[2])[None] < length[:, None]
        x = torch.relu(self.bn1(self.conv1(x), mask))
        x = torch.relu(self.bn2(self.conv2(x), mask))
        logits: Tensor = self.head(x.sum(2) / length[:, None])
        return logits


class Halves(nn.BatchNorm2d):
    """Both halves of a batch by themselves: a ghost batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return torch.cat([super(Halves, self).forward(half) for half in x.sort(0)[0].chunk(2)])


class Splits(nn.Module):
    """Statistics of every split, in one buffer: more of them than channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("running_mean", torch.zeros(2 * channels))
        self.register_buffer("running_var", torch.ones(2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        y = x.reshape(-1, 2 * self.channels, *x.shape[2:])
        if x.shape[0] % 2:
            return x
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return functional.batch_norm(y, mean, var, training=self.training).reshape(x.shape)


class Grouped(nn.BatchNorm2d):
    """Two channels share their statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        pairs = x.reshape(x.shape[0], -1, 2, *x.shape[2:])
        mean = pairs.mean((0, 2, 3, 4)).repeat_interleave(2)
        var = pairs.var((0, 2, 3, 4)).repeat_interleave(2)
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)  # type: ignore[union-attr]
            self.running_var.lerp_(var, 0.1)  # type: ignore[union-attr]
        return functional.batch_norm(x, mean, var, self.weight, self.bias)


class WithActivation(nn.BatchNorm2d):
    """As in timm: the activation belongs to the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(super().forward(x))


class Frozen(nn.BatchNorm2d):
    """Never moves."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return functional.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)


class Decaying(nn.BatchNorm2d):
    """Momentum the other way round: the share that stays."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        kept = 1 - (self.momentum or 0.0)
        mean, var = self.running_mean, self.running_var
        return functional.batch_norm(x, mean, var, self.weight, self.bias, True, 1 - kept, self.eps)


class Skewed(nn.Module):
    """Attaches what a hook does to the input before the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8)
        self.bn.register_forward_pre_hook(lambda _module, args: (args[0] * 3 + 1,))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(x)
        return y


def padded(seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 4, 40, generator=generator) + torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]
    length = torch.randint(4, 41, (256,), generator=generator)
    return [{"x": x[i : i + 64], "length": length[i : i + 64]} for i in range(0, 256, 64)]


def images(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(256, 1, 1, 1, generator=generator)
    return torch.randn(256, 1, 8, 8, generator=generator) + 3 * level + 1


def settled(model: nn.Module, batches: list[Any]) -> nn.Module:
    """The statistics of a training on these data."""
    model.train()
    with torch.no_grad():
        for _ in range(12):
            for batch in batches:
                model(**batch) if isinstance(batch, dict) else model(batch)
    return model.eval()


def around(norm: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    )


def sound(norm: nn.Module) -> nn.Module:
    return settled(around(norm), list(torch.split(images(), 64)))


def test_what_masks_leave_in_is_measured_by_the_layers_own_update() -> None:
    torch.manual_seed(0)
    model = settled(Sequences(), padded())
    report = bncheck.inspect(model, padded)
    assert report.summary.verdict == "healthy"
    assert report.summary.w2 is not None
    assert report.summary.w2 < 0.1
    assert report.unmeasured() == {}


def test_recalibrating_gives_the_moments_of_the_valid_places() -> None:
    torch.manual_seed(0)
    model = settled(Sequences(), padded())
    for name in ("bn1", "bn2"):
        model.get_submodule(name).reset_running_stats()  # type: ignore[operator]
    state = bncheck.recalibrate(model, padded, force=True).state_dict()
    whole = {key: torch.cat([batch[key] for batch in padded()]) for key in ("x", "length")}
    x = model.get_submodule("conv1")(whole["x"]).movedim(1, 2)
    valid = x[torch.arange(40)[None] < whole["length"][:, None]].double()
    assert torch.allclose(state["bn1.running_mean"].double(), valid.mean(0), atol=1e-4)
    assert torch.allclose(state["bn1.running_var"].double(), valid.var(0), rtol=1e-3)


@pytest.mark.parametrize("norm", [Halves, Splits], ids=lambda norm: norm.__name__)
def test_what_normalises_over_something_else_is_listed_and_left(
    norm: Callable[[int], nn.Module],
) -> None:
    model = sound(norm(8))
    report = bncheck.inspect(model, images())
    assert report.unmeasured() == {"1": "normalises over something else than its input"}
    layers = report.to_dict()["layers"]
    assert isinstance(layers, list)
    assert [(layer["measured"], layer["w2"]["eval"] is None) for layer in layers] == [
        (False, True),
        (True, False),
    ]
    new = bncheck.recalibrate(model, images() * 2, force=True)
    assert not any(name.startswith("1.") for name in new.state_dict())
    assert new.to_dict()["not_measured"] == [
        {"name": "1", "reason": "normalises over something else than its input"}
    ]


def test_what_groups_of_channels_share_is_taken_from_the_layer() -> None:
    model = sound(Grouped(8))
    report = bncheck.inspect(model, images())
    assert report.unmeasured() == {}
    assert report.summary.w2 is not None
    assert report.summary.w2 < 0.2
    mean = bncheck.recalibrate(model, images(), force=True).state_dict()["1.running_mean"]
    assert torch.equal(mean[::2], mean[1::2])


def test_a_model_of_nothing_else_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), Splits(8)).eval()
    with pytest.raises(BncheckError, match="no layer can be measured: 1 normalises over"):
        bncheck.inspect(model, images())


@pytest.mark.parametrize("norm", [WithActivation, Decaying, lambda _channels: Skewed()])
@pytest.mark.parametrize("momentum", [0.1, 0.9])
def test_layers_that_take_their_input_are_measured(
    norm: Callable[[int], nn.Module], momentum: float
) -> None:
    model = around(norm(8))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    report = bncheck.inspect(settled(model, list(torch.split(images(), 64))), images())
    assert report.unmeasured() == {}
    assert report.summary.w2 is not None
    assert report.summary.w2 < 0.2


def test_a_frozen_layer_is_measured_by_its_input() -> None:
    model = sound(nn.BatchNorm2d(8))
    frozen = around(Frozen(8))
    frozen.load_state_dict(model.state_dict())
    same = [bncheck.inspect(m.eval(), images()).summary.w2 for m in (model, frozen)]
    assert same[0] == same[1]


def test_nothing_of_the_model_changes() -> None:
    torch.manual_seed(0)
    model = settled(Sequences(), padded())
    model.get_submodule("bn1").train()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    bncheck.inspect(model, padded)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags


def test_pytorchs_own_layers_cost_nothing() -> None:
    model, asked = sound(nn.BatchNorm2d(8)), []

    def batches() -> Iterator[Tensor]:
        asked.append(1)
        yield from torch.split(images(), 64)

    data = open_data(batches, None)
    asked.clear()
    subject = Instrumented.of(model)
    assert proven(subject, data, Run()) is subject
    assert asked == []


class Tokens(nn.BatchNorm1d):
    """Over the features of a sequence, (N, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def test_channels_on_the_last_axis_are_told_from_as_many_steps() -> None:
    x = torch.rand(256, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 0.0  # the first step is empty: the other axis has a channel that never varies
    model = nn.Sequential(Tokens(8), nn.Flatten(), nn.Linear(64, 2)).eval()
    report = bncheck.recalibrate(model, x, force=True)
    tensors = report.state_dict()
    assert torch.allclose(tensors["0.running_mean"], x.mean(dim=(0, 1)), atol=1e-5)
    assert torch.allclose(tensors["0.running_var"], x.var(dim=(0, 1)), rtol=1e-3)
