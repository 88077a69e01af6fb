"""What the means of the first layer rule out without a run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.rules.data.batch_kinds import first_layer_forbids
from bncheck.rules.data.measured_network import MeasuredNetwork

torch.set_num_threads(1)


def network(moved: float, kinds: list[int]) -> MeasuredNetwork:
    """A first layer with the statistics of these classes, its means moved by so many sd."""
    torch.manual_seed(0)
    y = torch.arange(512) % 4
    x = torch.eye(4, 8)[y] + 0.5 * torch.randn(512, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        z: Tensor = model[0](x[torch.isin(y, torch.tensor(kinds))])
    norm = model[1]
    norm.get_buffer("running_mean").copy_(z.mean(0) + moved * z.std(0) * torch.randn(16).sign())
    norm.get_buffer("running_var").copy_(z.var(0))
    norm.get_buffer("num_batches_tracked").fill_(10_000)
    measurement = bncheck.inspect(model, (x, y)).measurement
    assert measurement is not None
    found = MeasuredNetwork(measurement, "")
    assert found.heavy == ["1"]
    return found


@pytest.mark.parametrize("kinds", [[0], [1, 2]])
def test_means_of_some_kinds_are_not_ruled_out(kinds: list[int]) -> None:
    assert not first_layer_forbids(network(0.0, kinds))


def test_means_that_no_mixture_has_are_ruled_out() -> None:
    assert first_layer_forbids(network(0.6, [0, 1, 2, 3]))


def test_means_too_far_away_to_be_scored_by_their_squares_rule_out_nothing() -> None:
    assert not first_layer_forbids(network(6.0, [0, 1, 2, 3]))
