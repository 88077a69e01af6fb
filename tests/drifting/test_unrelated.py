"""A folder of models that have nothing to do with each other is no series."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bncheck.cli import run


def test_a_folder_of_other_models_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        torch.save({f"{name}.{k}": v for k, v in nn.BatchNorm1d(4).state_dict().items()},
                   tmp_path / f"{name}.pt")  # fmt: skip
    assert run(["drift", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "bncheck: error: 3 snapshots of other models: no layer is in two of them; give snapshots "
        "of one training; `bncheck inspect` looks at each by itself\n"
    )
