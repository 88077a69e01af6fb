# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""Numbers that two calls share, operands in every order, axes that move: where folds go wrong."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.folding.peers.torch_cases import Case, _case, bn, conv, linear, numbers

_ONLY_SCALE: dict[str, Any] = {"positive": True, "scale_only": True}


def _looped(s: Any, x: Tensor) -> Tensor:
    """A cell on each of three steps, behind one norm."""
    state = torch.zeros(x.shape[0], 4, dtype=x.dtype)
    for step in range(3):
        state = s.r(s.n(x[:, :, step]), state)
    return state


CASES: dict[str, Case] = {
    "einsum, its weight shared": _case(
        lambda s, x: s.n(torch.einsum("bti,ihd->bhdt", x, s.w).flatten(1, 2))
        + s.m(torch.einsum("bti,ihd->bhdt", x.sin(), s.w).flatten(1, 2)),
        (2, 3, 5), w=numbers(5, 2, 4), n=bn(8, 1), m=bn(8, 1),
    ),
    "matmul left and right of one weight": _case(
        lambda s, x: s.n((x @ s.w).transpose(1, 2)) + s.m(s.w @ x), (2, 4, 4), w=numbers(4, 4),
        n=bn(4, 1), m=bn(4, 1),
    ),
    "matmul with a weight that is read otherwise": _case(
        lambda s, x: s.n((x @ s.w).transpose(1, 2)) + s.w.sum(), (2, 3, 4), w=numbers(4, 4),
        n=bn(4, 1),
    ),
    "cell in a loop": _case(_looped, (2, 5, 3), n=bn(5, 1), r=lambda: nn.GRUCell(5, 4)),
    "lstm twice, once behind a norm": _case(
        lambda s, x: s.r(s.n(x).permute(2, 0, 1))[0] + s.r(x.permute(2, 0, 1))[0], (2, 5, 3),
        n=bn(5, 1), r=lambda: nn.LSTM(5, 4),
    ),
    "norms on both sides of a weight for each head": _case(
        lambda s, x: s.m(
            (s.n(x).unflatten(1, (3, 5)).transpose(2, 3) @ s.w).transpose(2, 3).flatten(1, 2)
        ),
        (2, 15, 4), w=numbers(3, 5, 2), n=bn(15, 1), m=bn(6, 1),
    ),
    "square of a scale": _case(
        lambda s, x: s.c((y := s.n(x)) * y), n=bn(3), c=conv(), scale_only=True
    ),
    "scale of a square": _case(
        lambda s, x: s.n((y := s.c(x)) * y), n=bn(), c=conv(), scale_only=True, kept=1,
        reason="also used by",
    ),
    "divided by a scale": _case(
        lambda s, x: s.c(x.abs() / s.n(x)), n=bn(3), c=conv(), **_ONLY_SCALE
    ),
    "a constant divided by a scale": _case(
        lambda s, x: s.c(1.0 / s.n(x)), n=bn(3), c=conv(), kept=1, reason="lies between",
        **_ONLY_SCALE,
    ),
    "scale of one place times all": _case(
        lambda s, x: s.c(s.n(x.mean((2, 3), keepdim=True)) * x), n=bn(3), c=conv(),
        scale_only=True,
    ),
    "bn, new channels, conv": _case(
        lambda s, x: s.c(F.pad(s.n(x), (0, 0, 0, 0, 1, 1))), n=bn(3), c=conv(5)
    ),
    "bn, new channels of 1, conv": _case(
        lambda s, x: s.c(F.pad(s.n(x), (0, 0, 0, 0, 1, 1), value=1.0)), n=bn(3), c=conv(5)
    ),
    "bn, new channels and places, conv": _case(
        lambda s, x: s.c(F.pad(s.n(x), (1, 1, 0, 0, 1, 1))), n=bn(3), c=conv(5), kept=1,
        reason="pads with 0",
    ),
    "scale, new channels and places, conv": _case(
        lambda s, x: s.c(F.pad(s.n(x), (1, 1, 0, 0, 1, 1))), n=bn(3), c=conv(5), scale_only=True
    ),
    "conv, new channels, bn": _case(
        lambda s, x: s.n(F.pad(s.c(x), (0, 0, 0, 0, 1, 0))), n=bn(5), c=conv(), kept=1,
        reason="pads with 0",
    ),
    "conv, new channels, scale": _case(
        lambda s, x: s.n(F.pad(s.c(x), (0, 0, 0, 0, 1, 0))), n=bn(5), c=conv(), scale_only=True
    ),
    "a constant that two sums share": _case(
        lambda s, x: s.c(torch.relu(s.n(x) + s.t)) + s.d(torch.relu(x + s.t)), n=bn(3),
        t=numbers(3, 6, 6), c=conv(padding=1), d=conv(padding=1), positive=True,
    ),
    "a constant minus twice a norm": _case(
        lambda s, x: s.c(s.t - 2.0 * s.n(x)), n=bn(3), t=numbers(3, 6, 6), c=conv(padding=1),
        positive=True,
    ),
    "a norm minus twice a constant": _case(
        lambda s, x: s.c(torch.relu(torch.sub(s.n(x), s.t, alpha=2.0))), n=bn(3),
        t=numbers(3, 6, 6), c=conv(padding=1), positive=True,
    ),
    "two constants": _case(
        lambda s, x: s.c(torch.relu(torch.relu(s.n(x) + s.t) - s.u)), n=bn(3),
        t=numbers(3, 6, 6), u=numbers(3, 1, 1), c=conv(padding=1), positive=True,
    ),
    "between a norm and a constant": _case(
        lambda s, x: s.c(torch.relu(torch.lerp(s.n(x), s.t, 0.3))), n=bn(3),
        t=numbers(1, 3, 6, 6), c=conv(padding=1), positive=True,
    ),
    "layer norm of an image, channels moved, linear": _case(
        lambda s, x: s.f(s.l(x).permute(0, 3, 1, 2).flatten(1)), (2, 3, 4, 4),
        l=lambda: nn.LayerNorm((3, 4, 4)), f=linear(48, 2), norms="all",
    ),
    "layer norm of an image, bn, linear": _case(
        lambda s, x: s.f(s.n(s.l(x)).flatten(1)), (2, 3, 4, 4), n=bn(3),
        l=lambda: nn.LayerNorm((3, 4, 4)), f=linear(48, 2), norms="all",
    ),
    "baddbmm with factors": _case(
        lambda s, x: s.n(
            torch.baddbmm(s.b, x, s.w.expand(2, -1, -1), beta=0.5, alpha=2.0).transpose(1, 2)
        ),
        (2, 3, 5), w=numbers(1, 5, 4), b=numbers(2, 3, 4), n=bn(4, 1),
    ),
    "attention bn": _case(
        lambda s, x: s.n(s.a(x, x, x)[0].transpose(1, 2)), (2, 3, 4), n=bn(4, 1),
        a=lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    ),
}  # fmt: skip
