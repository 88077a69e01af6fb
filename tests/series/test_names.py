"""Snapshots are compared layer by layer, whatever wrapped the model in each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import bncheck
from tests import small


@pytest.mark.parametrize(
    "wrapped",
    ["module.{}", "_orig_mod.{}", "ema_model.module.{}", "model._orig_mod.{}",
     "_fsdp_wrapped_module.{}", "block._checkpoint_wrapped_module.{}"],
)  # fmt: skip
def test_a_wrapped_snapshot_has_the_layers_of_the_others(wrapped: str, tmp_path: Path) -> None:
    plain = "block.{}" if wrapped.startswith("block") else "{}"
    names = ("bn1", "deep.bn2")
    first = small.healthy(tmp_path / "1.safetensors", [plain.format(name) for name in names])
    last = small.healthy(tmp_path / "2.safetensors", [wrapped.format(name) for name in names])
    for paths, said in (((first, last), wrapped), ((last, first), plain)):
        report = bncheck.drift(paths, order="given")
        assert list(report.layer_names) == [said.format(name) for name in names]
        assert (report.movement.grid.w2 == 0).all()
