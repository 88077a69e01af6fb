"""Statistics under names that nobody knows, and tensors under none, are not called healthy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.inspecting.choices import choice_notes
from bncheck.inspecting.from_file import InspectOptions
from bncheck.reading.opening import open_checkpoint


def _state(mean: str, var: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    net(torch.randn(4, 3, 8, 8))
    names = {"running_mean": mean, "running_var": var}
    return {
        f"{k.rpartition('.')[0]}.{names.get(own := k.rpartition('.')[2], own)}": v
        for k, v in net.state_dict().items()
    }


@pytest.mark.parametrize(("mean", "var"), [("mu", "sigma"), ("m", "v"), ("stat_0", "stat_1")])
def test_what_a_counting_layer_holds_instead_of_statistics(
    mean: str, var: str, tmp_path: Path
) -> None:
    torch.save(_state(mean, var), tmp_path / "net.pt")
    with pytest.raises(BncheckError, match=rf"'1\.{mean}', '1\.{var}'\), which bncheck does not"):
        bncheck.inspect(tmp_path / "net.pt")


def test_a_layer_whose_statistics_are_lost_is_still_broken(tmp_path: Path) -> None:
    state = {k: v for k, v in _state("mu", "sigma").items() if "mu" not in k and "sigma" not in k}
    torch.save(state, tmp_path / "net.pt")
    assert [f.rule for f in bncheck.inspect(tmp_path / "net.pt").findings] == ["BN104"]


def _dumped(path: Path, value: Any) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def test_caffe2_s_blobs(tmp_path: Path) -> None:
    blobs = {f"res_bn_{role}": np.ones(8, "f4") for role in ("s", "b", "rm", "riv")}
    with pytest.raises(BncheckError, match="res_bn_rm"):
        bncheck.inspect(_dumped(tmp_path / "net.pkl", {"blobs": blobs}))


def test_pairs_of_name_and_array_are_read(tmp_path: Path) -> None:
    arrays = {"bn/gamma": np.ones(8, "f4"), "bn/moving_mean": np.arange(8.0),
              "bn/moving_variance": np.full(8, np.nan)}  # fmt: skip
    report = bncheck.inspect(_dumped(tmp_path / "net.pkl", [*arrays.items()]))
    assert [(f.rule, f.layer) for f in report.findings] == [("BN102", "bn")]


@pytest.mark.parametrize(
    "value",
    [
        [torch.ones(3), torch.ones(4)],
        {"shadow_params": [torch.ones(3), torch.ones(4)], "decay": 0.99},
        torch.utils.data.TensorDataset(torch.ones(2, 3)),
    ],
)
def test_tensors_without_names_are_called_so(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "net.pt")
    with pytest.raises(BncheckError, match="holds tensors without names"):
        bncheck.inspect(tmp_path / "net.pt")


def test_the_critic_beside_a_generator_is_not_passed_over(tmp_path: Path) -> None:
    critic = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)))
    state = critic.state_dict()
    torch.save({"D": state, "G": _state("running_mean", "running_var")}, tmp_path / "net.pt")
    (note,) = choice_notes(open_checkpoint(tmp_path / "net.pt"), InspectOptions())
    assert "using G; --key selects another: D (no fault found)" in note
    state["0.parametrizations.weight.0._u"] *= 0.5
    torch.save({"D": state, "G": _state("running_mean", "running_var")}, tmp_path / "net.pt")
    (note,) = choice_notes(open_checkpoint(tmp_path / "net.pt"), InspectOptions())
    assert "D (broken)" in note
