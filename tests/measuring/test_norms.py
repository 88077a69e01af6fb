"""A layer of the author's own is found in a module by what its statistics are called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.measuring.norms import norms_of, spare_statistics, with_statistics


class OwnNorm(nn.Module):
    """As in many a text book: sizes of 1 around the channels, names of its own."""

    def __init__(self, channels: int, mean: str, var: str) -> None:
        super().__init__()
        self.names = mean, var
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer(mean, torch.zeros(1, channels, 1, 1))
        self.register_buffer(var, torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = (getattr(self, name) for name in self.names)
        if self.training:
            batch_mean = x.mean((0, 2, 3), keepdim=True)
            batch_var = x.var((0, 2, 3), keepdim=True)
            setattr(self, self.names[0], 0.9 * mean + 0.1 * batch_mean.detach())
            setattr(self, self.names[1], 0.9 * var + 0.1 * batch_var.detach())
            mean, var = batch_mean, batch_var
        normalised: Tensor = self.gamma * (x - mean) / (var + 1e-5).sqrt() + self.beta
        return normalised


def net(mean: str, var: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), OwnNorm(8, mean, var), nn.ReLU()).eval()


NAMES = [("running_mean", "running_var"), ("moving_mean", "moving_variance")]


@pytest.mark.parametrize(("mean", "var"), NAMES)
def test_own_layers_are_measured_and_their_statistics_have_their_names(mean: str, var: str) -> None:
    x = torch.randn(128, 1, 8, 8) * 3 + 5
    model = net(mean, var)
    assert bncheck.inspect(model, x).summary.w2 > 0.4  # type: ignore[operator]
    state = bncheck.recalibrate(model, x, force=True).state_dict()
    assert set(state) == {f"1.{mean}", f"1.{var}"}
    model.load_state_dict(state, strict=False)
    assert bncheck.inspect(model, x).summary.verdict == "healthy"


def test_the_file_of_such_a_model_is_recalibrated_in_its_own_shape(tmp_path: Path) -> None:
    from bncheck.core.errors import BncheckError
    from bncheck.reading.opening import open_checkpoint
    from bncheck.recalibrating.values import values_in_file

    x = torch.randn(128, 1, 8, 8) * 3 + 5
    model = net(*NAMES[1])
    torch.save(model.state_dict(), tmp_path / "own.pt")
    report = bncheck.recalibrate(model, x, force=True)
    values = values_in_file(report, open_checkpoint(tmp_path / "own.pt"))
    assert {name: value.shape for name, value in values.items()} == {
        f"1.{name}": (1, 8, 1, 1) for name in NAMES[1]
    }
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(BncheckError, match="no running statistics"):
        values_in_file(report, open_checkpoint(tmp_path / "other.pt"))


def test_spare_statistics_leave_the_buffers_themselves() -> None:
    model = net(*NAMES[1])
    norm = norms_of(model)[0]
    before = model[1].moving_mean  # type: ignore[index]
    with spare_statistics([norm]):
        norm.mean.fill_(3)
        assert (model[1].moving_mean == 3).all()  # type: ignore[index]
    assert model[1].moving_mean is before  # type: ignore[index]
    assert (before == 0).all()
    values = torch.arange(8).double().numpy()
    with with_statistics([norm], {"1": (values, values + 1)}):
        assert model[1].moving_variance.reshape(-1).tolist() == list(range(1, 9))  # type: ignore[index]


def test_the_normaliser_of_a_policys_inputs_is_not_a_layer() -> None:
    module = nn.Module()
    for name in ("running_mean", "running_var", "count"):
        module.register_buffer(name, torch.ones(4))
    assert norms_of(nn.Sequential(module)) == []


def test_statistics_that_are_no_vector_are_no_layer() -> None:
    module = nn.Module()
    for name in ("running_mean", "running_var"):
        module.register_buffer(name, torch.ones(4, 4))
    assert norms_of(nn.Sequential(module)) == []
