"""Results in three columns, and what they cost: every batch passes once for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.data import DataOptions, open_data
from tests import planted
from tests.planted import SAMPLES, DigitNet

torch.set_num_threads(1)


class Counting(DigitNet):
    """Counts the samples that go all the way through."""

    samples = 0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        self.samples += len(x)
        return out


#: With data prepared as fits, results are found on 512 samples and layers are measured on 128.
PREPARED = 512 + 128


def sample(name: str) -> Counting:
    net = Counting()
    state = bncheck.open_checkpoint(SAMPLES / name).tensors
    net.load_state_dict({n: torch.from_numpy(t) for n, t in state.items()})
    return net.eval()


@pytest.mark.parametrize(
    ("name", "most", "more"),
    [("healthy.pt", 1.0, 0), ("stale.pt", 3.2, 0), ("wrong-input-scale.pt", 3.1, PREPARED)],
)
@pytest.mark.parametrize("labels", [True, False])
def test_a_batch_passes_once_for_each_set_of_statistics(
    name: str, most: float, more: int, labels: bool
) -> None:
    x, y = planted.digits("train")
    net = sample(name)
    bncheck.inspect(net, (x, y) if labels else x)
    assert net.samples <= most * len(x) + more


def test_recalibrating_costs_no_more_than_inspecting() -> None:
    x, y = planted.digits("train")
    net = sample("stale.pt")
    bncheck.recalibrate(net, (x, y))
    assert net.samples <= 3.2 * len(x)


def test_three_columns() -> None:
    x, y = planted.digits("train")
    report = bncheck.inspect(sample("stale.pt"), (x, y))
    results = report.to_dict()["results"]
    assert isinstance(results, dict)
    assert results["metric"] == "accuracy"
    assert results["running"] < 0.7
    assert results["measured"] > 0.99
    assert results["batch"] > 0.98
    assert (results["batch_size"], results["samples"]) == (63, len(x))


def test_the_third_column_is_train_mode() -> None:
    x, y = planted.digits("train")
    net = sample("stale.pt")
    options = DataOptions(batch_size=50)
    report = bncheck.inspect(net, (x, y), train_batch_size=7, data_options=options)
    right = 0
    net.train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        for batch in open_data((x, y), options).of_size(7):
            right += int((net(batch.args[0]).argmax(dim=1) == batch.target).sum())
    net.load_state_dict(state)
    results = report.to_dict()["results"]
    assert isinstance(results, dict)
    assert results["batch"] == pytest.approx(right / len(x), abs=0.002)
    assert results["batch_size"] == 7


def test_a_sound_model_has_the_first_column_alone() -> None:
    x, y = planted.digits("train")
    results = bncheck.inspect(sample("healthy.pt"), (x, y)).to_dict()["results"]
    assert isinstance(results, dict)
    assert results["running"] > 0.99
    assert results["measured"] is None
    assert bncheck.inspect(sample("healthy.pt"), x).to_dict()["results"] is None


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_batches_of_another_size_hold_the_same_samples(size: int) -> None:
    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in (30, 30, 5):
            x = torch.arange(rows, dtype=torch.float32)[:, None]
            yield x, x[:, 0].long()

    data = open_data(loader)
    parts = list(data.of_size(size))
    assert torch.cat([p.args[0] for p in parts]).equal(torch.cat([b.args[0] for b in data]))
    assert torch.cat([p.target for p in parts]).equal(torch.cat([b.target for b in data]))
    assert {p.size for p in parts[:-1]} <= {size}


def test_labels_that_do_not_fit_are_an_error_though_the_model_is_sound() -> None:
    x, _ = planted.digits("train")
    with pytest.raises(bncheck.BncheckError, match="labels of shape"):
        bncheck.inspect(sample("healthy.pt"), (x, torch.zeros(len(x), 3)))


def test_one_layer_nets_of_dense_maps(tmp_path: object) -> None:
    """Maps are compared by image, and wrappers of outputs are opened."""

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.bn(self.conv(x)), "aux": x}

    x, y = torch.randn(96, 1, 8, 8) * 4 + 9, torch.randint(0, 3, (96, 8, 8))
    y[:, 0] = 255
    results = bncheck.inspect(Maps().eval(), (x, y)).to_dict()["results"]
    assert isinstance(results, dict)
    assert 0.2 < results["running"] < 0.5
    assert 0.2 < results["measured"] < 0.5
