"""Files in which a format's own loader finds other numbers than a reader that skips something.

Each of them is refused (tests/reading/test_hostile.py runs them); here it is shown that they are
lies: the loader takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bncheck
from bncheck.reading.opening import open_checkpoint
from tests.hostile import CASES, distributed_liars, exported_liars, torchscript_liars

#: The beginnings of the cases' names, and what loads such a file.
LOADERS: dict[str, Callable[[Path], object]] = {
    "distributed-lie-": distributed_liars.load,
    "exported-lie-": exported_liars.load,
    "torchscript-lie-": torchscript_liars.load,
}
LIES = [(name, load) for start, load in LOADERS.items() for name in CASES if name.startswith(start)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "load"), LIES, ids=[name for name, _ in LIES])
def test_the_loader_takes_it(name: str, load: Callable[[Path], object], tmp_path: Path) -> None:
    load(CASES[name].build(tmp_path))


def test_a_part_below_the_chosen_one_is_named(tmp_path: Path) -> None:
    """The wrapper holds two layers, and a child of it, which is not in its own tensors, one."""
    layer = {"running_mean": torch.zeros(4), "running_var": -torch.ones(4)}
    child = {f"bn.{role}": tensor for role, tensor in layer.items()}
    outer = {f"{name}.{role}": abs(t) for name in "ab" for role, t in layer.items()}
    torch.save({"net": {**outer, "inner": child}}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.key == "net"
    assert [tree.path for tree in checkpoint.alternatives] == ["net.inner"]
    whole = open_checkpoint(tmp_path / "model.pt", "net.inner")
    assert [tree.path for tree in whole.alternatives] == ["net"]


def test_a_network_that_is_not_registered_is_named(tmp_path: Path) -> None:
    """It is in a plain list, so that the state dict lacks it, and is run all the same."""
    student = torch.nn.BatchNorm2d(4)
    net = torch.nn.Sequential(student)
    student.__dict__["teachers"] = [torch.nn.BatchNorm2d(4) for _ in range(2)]
    net.__dict__["parts"] = [student]
    torch.save(net, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.key == ""
    assert [tree.path for tree in checkpoint.alternatives] == ["0.teachers.0", "0.teachers.1"]
    assert open_checkpoint(tmp_path / "model.pt", "0.teachers.1").modules.keys() == {""}


@pytest.mark.parametrize("eps", [float("nan"), float("inf")])
def test_an_eps_of_a_module_that_is_not_finite_is_found(eps: float, tmp_path: Path) -> None:
    """Its layer gives NaN or zeros; it was taken for one that the file does not say."""
    torch.save(torch.nn.Sequential(torch.nn.BatchNorm2d(4, eps=eps)).eval(), tmp_path / "model.pt")
    report = bncheck.inspect(tmp_path / "model.pt")
    assert "BN102" in [finding.rule for finding in report.findings]
