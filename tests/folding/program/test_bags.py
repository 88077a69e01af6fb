"""Bags of an embedding before a norm: what of its map the rows take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from bncheck.folding.planner.plan import Status
from bncheck.folding.program.rewrite import rewrite
from bncheck.folding.weights import solve
from bncheck.graph.program.read import read_program
from tests.folding.peers.running import _error, randomised
from tests.folding.peers.torch_cases import Net, bn

torch.set_num_threads(1)
_CASES: dict[str, tuple[dict[str, Any], bool, bool, str]] = {
    "means": ({"mode": "mean"}, False, False, ""),
    "means without a row": ({"mode": "mean", "padding_idx": 1}, False, False, "leaves rows out"),
    "means without a row, scaled": ({"mode": "mean", "padding_idx": 1}, True, True, ""),
    "sums": ({"mode": "sum"}, False, False, ""),
    "sums without a row": ({"mode": "sum", "padding_idx": 1}, True, False, "leaves rows out"),
    "sums, scaled": ({"mode": "sum"}, True, True, ""),
    "largest": ({"mode": "max"}, True, False, ""),
    "largest, negative scales": ({"mode": "max"}, False, False, "some scales are negative"),
}


def _fold(net: nn.Module, *inputs: Tensor, dynamic: bool, core: bool) -> tuple[Any, float]:
    shapes = {"x": {0: Dim.DYNAMIC}} if dynamic else None
    program = torch.export.export(net, inputs, dynamic_shapes=shapes)
    program = program.run_decompositions() if core else program
    solution = solve(read_program(program))
    result = rewrite(program, solution).program.module()
    (decision,) = solution.plan.decisions
    return decision, _error(net(*inputs), result(*inputs))


@pytest.mark.parametrize(
    ("name", "dynamic"), [("means", False), ("sums, scaled", False), *((n, True) for n in _CASES)]
)
def test_bags_of_one_size(name: str, dynamic: bool) -> None:
    options, positive, scale_only, reason = _CASES[name]
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(10, 4, **options)
    net = Net(lambda s, x: s.n(s.e(x)), e=bag, n=bn(4, 1)())
    randomised(net, positive, scale_only).double()
    decision, error = _fold(net, torch.randint(10, (3, 5)), dynamic=dynamic, core=dynamic)
    assert decision.status is (Status.KEPT if reason else Status.FOLDED)
    assert reason in decision.reason
    assert error < 1e-14


class _Offsets(nn.Module):
    """Bags that begin at places which are constants."""

    def __init__(self, *offsets: int, mode: str = "mean") -> None:
        super().__init__()
        self.e, self.n = nn.EmbeddingBag(10, 4, mode=mode), nn.BatchNorm1d(4)
        self.register_buffer("offsets", torch.tensor(offsets))

    def forward(self, x: Tensor) -> Any:
        return self.n(self.e(x, self.offsets))


@pytest.mark.parametrize(("offsets", "kept"), [((0, 2, 6), 0), ((0, 2, 2), 1), ((0, 3, 7), 1)])
def test_a_bag_without_a_row_takes_no_shift(offsets: tuple[int, ...], kept: int) -> None:
    torch.manual_seed(0)
    net = randomised(_Offsets(*offsets), False, False).double()
    decision, error = _fold(net, torch.randint(10, (7,)), dynamic=False, core=False)
    assert (decision.status is Status.KEPT) == bool(kept)
    assert error < 1e-14


@pytest.mark.parametrize(("offsets", "kept"), [((0, 2, 4), 0), ((0, 2, 3), 1), ((0, 3), 0)])
def test_sums_take_a_shift_where_all_are_of_as_many_rows(
    offsets: tuple[int, ...], kept: int
) -> None:
    torch.manual_seed(0)
    net = randomised(_Offsets(*offsets, mode="sum"), False, False).double()
    decision, error = _fold(net, torch.randint(10, (6,)), dynamic=False, core=False)
    assert (decision.status is Status.KEPT) == bool(kept)
    assert error < 1e-14
