"""Attention with a mask, and numbers read as bits of another dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bncheck.folding.program.fold import FoldResult, fold
from tests.folding.patterns.building import Fn

torch.set_num_threads(1)
SEEN = torch.ones(5, 5, dtype=torch.bool).tril()
BLIND = SEEN & (torch.arange(5) != 2)[:, None]


def _bias(seen: Tensor) -> Tensor:
    return torch.randn(5, 5).double().masked_fill(~seen, float("-inf"))


def _folded(run: Callable[[Tensor, Tensor], Tensor], **more: nn.Module) -> FoldResult:
    """The fold of a BatchNorm of the channels of an attention's result."""
    torch.manual_seed(0)
    bn, fc = nn.BatchNorm1d(4), nn.Linear(4, 4)
    for numbers in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(numbers)  # type: ignore[arg-type]
    model = Fn(lambda s, x: s.bn(run(x, s.fc(x)).transpose(1, 2)), bn=bn, fc=fc, **more).double()
    x = torch.randn(2, 5, 4).double()
    result = fold(model.eval(), x)
    with torch.no_grad():
        assert torch.allclose(result.module()(x), model(x), rtol=1e-12, atol=1e-12)
    return result


@pytest.mark.parametrize(
    ("mask", "status"),
    [
        (SEEN, "folded"),
        (_bias(SEEN), "folded"),
        (nn.Parameter(torch.randn(5, 5).double()), "folded"),
        (SEEN[:1].expand(5, 5), "folded"),
        (BLIND, "kept"),  # a query that sees no key gets 0
        (_bias(BLIND), "kept"),
    ],
    ids=["seen", "bias", "learned bias", "repeated", "blind", "blind bias"],
)
def test_a_constant_mask_that_leaves_each_query_a_key(mask: Tensor, status: str) -> None:
    result = _folded(lambda x, v: F.scaled_dot_product_attention(x, x, v, attn_mask=mask))
    assert [d.status for d in result.batchnorms] == [status]


def test_a_mask_of_the_input_may_leave_a_query_none() -> None:
    result = _folded(
        lambda x, v: F.scaled_dot_product_attention(x, x, v, attn_mask=x[:, None, :, 0] > 0)
    )
    assert "scaled_dot_product_attention) lies between" in result.batchnorms[0].reason


def test_no_map_passes_what_reads_bits() -> None:
    """float16 and bfloat16 have equally many of them."""
    torch.manual_seed(0)
    bn, fc = nn.BatchNorm1d(4).half(), nn.Linear(4, 4).bfloat16()
    nn.init.normal_(bn.running_mean)  # type: ignore[arg-type]
    model = Fn(lambda s, x: s.fc(s.bn(x).view(torch.bfloat16)), bn=bn, fc=fc)
    (decision,) = fold(model.eval(), torch.randn(2, 4).half()).batchnorms
    assert "(view) lies between" in decision.reason


TABLE = torch.tensor([[0, 2, 1], [1, 3, -1]])
KERNEL = torch.randn(2, 3, 5).double()


@pytest.mark.parametrize(
    "run",
    [
        lambda s, x: torch.einsum("nij,ijo->no", s.bn(s.fc(x).tanh())[:, TABLE], KERNEL),
        lambda s, x: s.bn(s.fc(x[:, :, None] * x[:, None])[:, TABLE].flatten(1, 2).mT),
    ],
    ids=["channels", "places"],
)
def test_a_table_of_positions_becomes_axes(run: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    bn, fc = nn.BatchNorm1d(4), nn.Linear(4, 4)
    for numbers in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(numbers)  # type: ignore[arg-type]
    model, x = Fn(run, bn=bn, fc=fc).double().eval(), torch.randn(3, 4).double()
    result = fold(model, x)
    with torch.no_grad():
        assert torch.allclose(result.module()(x), model(x), rtol=1e-12, atol=1e-12)
    assert [d.status for d in result.batchnorms] == ["folded"]
