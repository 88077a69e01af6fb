"""Drift measured on data: against plain torch, on noise alone, and with nets without BatchNorm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import bncheck
from bncheck.core.thresholds import W2_WARNING
from bncheck.series.distance import distance
from bncheck.series.measuring import Meter
from bncheck.subject.setup import Measuring
from tests.drifting.planted import SNAPSHOTS, State, changed
from tests.networks import SAMPLES

NET = f"{SAMPLES / 'nets.py'}:DigitNet"
PLAIN = f"{SAMPLES / 'nets.py'}:PlainNet"
DATA = SAMPLES / "digits-train.npz"


@pytest.fixture(scope="module", autouse=True)
def images() -> torch.Tensor:
    torch.set_num_threads(1)  # two that wait for each other on a busy machine take ten times longer
    return torch.from_numpy(np.load(DATA)["x"])


def batches(x: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.split(x, 64))


def test_moments_are_those_of_plain_torch(images: torch.Tensor) -> None:
    """Of every layer, BatchNorm normalising with the batch, from its own forward in float64."""
    from tests.planted import DigitNet

    path = SNAPSHOTS[3]
    measured = Meter(Measuring(NET, batches(images)), None, True).measure(path)
    net = DigitNet().double()
    net.load_state_dict(torch.load(path)["state_dict"])
    seen: dict[str, list[torch.Tensor]] = {}
    for name in ("conv1", "conv2", "conv3", "fc1", "fc2"):
        net.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.setdefault(name, []).append(out.detach())
        )
    net.train()
    for x in batches(images):
        net(x.double())
    for name, outputs in seen.items():
        values = torch.cat(outputs).transpose(0, 1).flatten(1).numpy()
        found = measured[name].statistics
        np.testing.assert_allclose(found.mean, values.mean(1), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.var, values.var(1, ddof=1), rtol=1e-5)
    for norm, before in (("bn1", "conv1"), ("bn4", "fc1")):
        np.testing.assert_array_equal(
            measured[norm].statistics.mean, measured[before].statistics.mean
        )


@pytest.mark.parametrize("half", [128, 700])
def test_two_halves_of_the_same_data_are_not_called_drift(images: torch.Tensor, half: int) -> None:
    for path in (SNAPSHOTS[0], SNAPSHOTS[-1]):
        sides = [
            Meter(Measuring(NET, batches(x)), None, True).measure(path)
            for x in (images[:half], images[half : 2 * half])
        ]
        for name, first in sides[0].items():
            apart = float(distance(first.statistics, sides[1][name].statistics).w2)
            assert apart < W2_WARNING, name
            raw = distance(first.statistics, sides[1][name].statistics)
            assert apart < np.sqrt(np.mean(raw.channels**2))  # the noise was taken off


def test_a_net_without_batchnorm_moves_much_further() -> None:
    options = {"layers": "all", "reference": "first"}
    with_norm = bncheck.drift(SNAPSHOTS, NET, str(DATA), **options)  # type: ignore[arg-type]
    plain_files = sorted((SAMPLES / "snapshots-plain").glob("*.pt"))
    plain = bncheck.drift(plain_files, PLAIN, str(DATA), **options)  # type: ignore[arg-type]
    assert plain.movement.layers == (
        "conv1", "relu()", "conv2", "relu() 2", "conv3", "relu() 3", "fc1", "relu() 4", "fc2",
    )  # fmt: skip
    assert with_norm.movement.grid.w2.max() < 1
    assert plain.movement.grid.w2.max() > 100
    assert with_norm.to_dict()["source"] == "data"


def test_statistics_lag_while_the_learning_rate_is_high() -> None:
    lag = bncheck.drift(SNAPSHOTS, NET, str(DATA)).movement.lag
    assert lag[:, 0].max() > W2_WARNING
    assert lag[:, -1].max() < 0.05


def test_shapes_are_nothing_apart_from_themselves_and_grow() -> None:
    report = bncheck.drift(SNAPSHOTS, NET, str(DATA), shape=True)
    w1 = report.movement.w1
    assert w1 is not None
    assert (w1[:, -1] == 0).all()
    assert (w1[:, 0] > w1[:, 4]).all()
    against_before = bncheck.drift(
        SNAPSHOTS, NET, str(DATA), shape=True, reference="previous"
    ).movement.w1
    assert against_before is not None
    assert np.isnan(against_before[:, 0]).all()
    # In the units of the snapshot before, as from its own coordinates.
    last_two = bncheck.drift(SNAPSHOTS[-2:], NET, str(DATA), shape=True, reference="first")
    assert last_two.movement.w1 is not None
    np.testing.assert_allclose(against_before[:, -1], last_two.movement.w1[:, 1], atol=0.02)


def test_a_change_of_the_training_s_data_that_the_data_given_cannot_show(tmp_path: Path) -> None:
    """The running statistics jump, and the network is the same on these data."""

    def jump(place: int, state: State) -> None:
        if place >= 4:
            state["bn2.running_mean"] += 3 * state["bn2.running_var"].sqrt()

    (finding,) = bncheck.drift(changed(tmp_path, jump), NET, str(DATA)).findings
    assert (finding.rule, finding.layer) == ("BN304", "bn2")
    assert "these are the old ones" in finding.message
    assert bncheck.drift(SNAPSHOTS, NET, str(DATA)).findings == ()


def test_a_change_of_data_is_told_from_those_that_the_training_went_on_with(
    tmp_path: Path,
) -> None:
    """The same, and the data given fit the statistics after the jump."""
    far = 3 * torch.load(SNAPSHOTS[3])["state_dict"]["bn2.running_var"].sqrt()

    def jump(place: int, state: State) -> None:
        if place < 4:
            state["bn2.running_mean"] += far

    (finding,) = bncheck.drift(changed(tmp_path, jump), NET, str(DATA)).findings
    assert (finding.rule, finding.layer) == ("BN304", "bn2")
    assert "these are the new ones" in finding.message
    assert "data that the training had before" in finding.fix


def test_a_training_that_ends_in_nan_is_measured_as_far_as_it_goes(tmp_path: Path) -> None:
    def poison(place: int, state: State) -> None:
        if place >= 4:
            for tensor in state.values():
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)

    report = bncheck.drift(changed(tmp_path, poison), NET, str(DATA))
    assert {(f.rule, f.layer) for f in report.findings} == {
        ("BN102", f"bn{n}") for n in range(1, 5)
    }
    assert np.isfinite(report.movement.grid.w2[:, :4]).all()
    assert np.isnan(report.movement.grid.w2[:, 4:]).all()


def test_the_user_s_model_is_left_as_it_was(images: torch.Tensor) -> None:
    from tests.planted import DigitNet

    model = DigitNet().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bncheck.drift(SNAPSHOTS[:2], model, batches(images[:256]), layers="all", shape=True)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_that_no_snapshot_fits_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(bncheck.BncheckError, match="lacks"):
        bncheck.drift(SNAPSHOTS, PLAIN, str(DATA))
