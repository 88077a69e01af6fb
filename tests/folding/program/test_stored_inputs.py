"""A BatchNorm of a parameter, not of an activation: it is listed, and goes into that parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bncheck.folding.program.fold import fold
from tests.folding.patterns.building import Fn

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("run", "into"),
    [
        (lambda s, x: s.after(s.fc(x) + s.bn(s.query).sum(0)), "fc"),
        (lambda s, x: s.after(F.linear(x, s.bn(s.query))), "linear"),
        (lambda s, x: s.after(s.fc(x) + s.bn(s.query).tanh()[:1]), "fc"),
        (lambda s, x: s.after(s.fc(x) @ (s.query + s.bn(s.query))), "matmul"),
    ],
    ids=["summand", "weight", "behind an activation", "skip"],
)
def test_it_goes_into_the_parameter(run: Callable[[Any, Tensor], Tensor], into: str) -> None:
    torch.manual_seed(0)
    norms = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    model = Fn(run, bn=norms[0], after=norms[1], fc=nn.Linear(4, 4)).double()
    model.query = nn.Parameter(torch.randn(4, 4).double())
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    x = torch.randn(3, 4).double()
    result = fold(model.eval(), x)
    assert [d.status for d in result.batchnorms] == ["folded", "folded"]
    assert [d.name for d in result.batchnorms] == ["bn", "after"]
    assert result.batchnorms[0].into == ("query",)
    assert result.batchnorms[1].into[0].startswith(into)
    with torch.no_grad():
        assert torch.allclose(result.module()(x), model(x), rtol=1e-12, atol=1e-12)
        assert not any("norm" in str(node.target) for node in result.program.graph.nodes)
