"""Convolutions of all samples at once, each with a kernel of its own, at any number of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from bncheck.folding.planner.plan import Plan, Status
from bncheck.folding.program.rewrite import rewrite
from bncheck.folding.weights import solve
from bncheck.graph.program.read import read_program
from tests.folding.peers.computed_cases import CondConv
from tests.folding.peers.running import _error, randomised
from tests.folding.peers.torch_cases import Net, bn, conv, linear

torch.set_num_threads(1)


def _folded(net: nn.Module, *shape: int) -> tuple[Plan, float]:
    """The plan, and the largest error of any batch."""
    x = torch.randn(2, *shape, dtype=torch.float64)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: Dim.DYNAMIC},))
    solution = solve(read_program(program))
    result = rewrite(program, solution).program.module()
    errors = []
    for batch in (1, 2, 5):
        y = torch.randn(batch, *shape, dtype=torch.float64)
        with torch.no_grad():
            errors.append(_error(net(y), result(y)))
    return solution.plan, max(errors)


def _net(run: Callable[..., Any], positive: bool = False, **parts: Any) -> nn.Module:
    torch.manual_seed(0)
    made = {name: part() for name, part in parts.items()}
    return randomised(Net(run, **made), positive, False).double()


_NETS: dict[str, Callable[[], nn.Module]] = {
    "kernels": lambda: _net(lambda s, x: s.n(s.c(x)), c=lambda: CondConv(3, 4), n=bn()),
    "one channel": lambda: _net(
        lambda s, x: s.n(s.c(x[:, :1])), c=lambda: CondConv(1, 2), n=bn(2)
    ),
    "kernels and biases": lambda: _net(
        lambda s, x: s.n(s.c(x)), c=lambda: CondConv(3, 4, biased=True), n=bn()
    ),
    "a block of an inverted residual": lambda: _net(
        lambda s, x: s.o(s.c(torch.relu(s.m(s.b(torch.relu(s.n(s.a(x)))))))) + x,
        a=lambda: CondConv(3, 4, 1), n=bn(), b=lambda: CondConv(4, 4, groups=2), m=bn(),
        c=lambda: CondConv(4, 3, 1), o=bn(3),
    ),
    "two norms behind one another": lambda: _net(
        lambda s, x: s.m(s.n(s.c(x))), c=lambda: CondConv(3, 4), n=bn(), m=bn()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _NETS)
def test_every_norm_goes_at_any_number_of_samples(name: str) -> None:
    plan, error = _folded(_NETS[name](), 3, 6, 6)
    assert all(d.status is not Status.KEPT for d in plan.decisions), plan.decisions
    assert error < 1e-12


def _summed(s: Any, x: Tensor) -> Tensor:
    """The samples of a batch lie in one axis with the channels, and both are added up."""
    batch = x.shape[0]
    weight = torch.sigmoid(s.r(x.mean((2, 3)))).view(batch * 4, 3, 1, 1)
    y = torch.conv2d(x.reshape(1, batch * 3, 6, 6), weight, groups=batch)
    result: Tensor = s.n(y.view(batch, 4, 6, 6)) + y.mean()
    return result


def test_where_more_is_done_than_to_give_another_shape_it_stays() -> None:
    plan, error = _folded(_net(_summed, r=linear(3, 12), n=bn(), c=conv()), 3, 6, 6)
    assert [d.status for d in plan.decisions] == [Status.KEPT]
    assert error == 0
