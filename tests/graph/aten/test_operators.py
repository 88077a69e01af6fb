"""The table of torch's operators: every name exists in torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bncheck.folding.program.exporting import export_program
from bncheck.graph.aten.operators import OPERATORS
from bncheck.graph.onnx.operators import OPERATORS as ONNX_OPERATORS
from bncheck.graph.operators import ONNX, TORCH
from bncheck.graph.program.read import read_program
from bncheck.graph.specs import Average, Gather, Spec


def test_every_name_is_an_operator_of_torch() -> None:
    assert [name for name in OPERATORS if not hasattr(torch.ops.aten, name)] == []


def test_families_do_not_speak_about_one_operator_twice() -> None:
    """A later entry would hide an earlier one."""
    from bncheck.graph.aten import algebra, gathers, norms, pooling, views

    tables = (algebra.ALGEBRA, gathers.GATHERS, norms.NORMS, pooling.POOLING, views.VIEWS)
    assert len(TORCH) + sum(len(table) for table in tables) == len(OPERATORS)
    assert set(ONNX) < set(ONNX_OPERATORS)


class _Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 1).mean((2, 3))


def test_settings_are_read() -> None:
    graph = read_program(export_program(_Net(), (torch.zeros(2, 3, 4, 4),)))
    specs: list[Spec] = [op.spec for op in graph.ops]
    assert specs == [Gather(((1, (2, 0, 1)),)), Average((2, 3), 1.0, drops=True)]
