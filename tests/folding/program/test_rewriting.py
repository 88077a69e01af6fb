"""Rewriting costs as much for each parameter, however many there are; dropout costs nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Node

from bncheck.folding.program.exporting import export_program
from bncheck.folding.program.fold import fold
from bncheck.folding.program.in_place import functional
from bncheck.folding.program.parameters import Parameters
from tests.folding.patterns.building import randomised

torch.set_num_threads(1)


def _looks_at_inputs(blocks: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a node is asked whether it holds numbers."""
    counts: Counter[str] = Counter()
    usual = Parameters._holds_numbers

    def counted(self: Parameters, node: Node) -> bool:
        counts["asked"] += 1
        return usual(self, node)

    parts = [nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))] * blocks
    model = randomised(nn.Sequential(*[nn.Sequential(*part) for part in parts]))
    with monkeypatch.context() as patch:
        patch.setattr(Parameters, "_holds_numbers", counted)
        fold(model, torch.randn(2, 2, 3, 3))
    return counts["asked"]


def test_rewriting_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (_looks_at_inputs(blocks, monkeypatch) for blocks in (4, 16))
    assert few < many < 5 * few


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout])
def test_dropout_in_place_is_the_identity(dropout: Any) -> None:
    parts = (
        nn.Conv2d(3, 4, 1),
        dropout(0.5, inplace=True),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Flatten(),
    )
    model = randomised(nn.Sequential(*parts))
    program = export_program(model, (torch.randn(2, 3, 4, 4),))
    names = [str(node.target) for node in functional(program).graph.nodes]
    assert "aten.silu.default" in names, "nothing was decomposed for it"
    assert not any("dropout_" in name for name in names)
    result = fold(model, torch.randn(2, 3, 4, 4))
    assert not result.report.kept
    assert result.parity is not None
    assert result.parity.max_relative_error < 1e-6
