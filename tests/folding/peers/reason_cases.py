# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""What is printed of a norm that stays is true of it: each case has a near miss beside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from tests.folding.peers.torch_cases import Case, _case, bn, conv, linear, numbers

_POSITIVE: dict[str, Any] = {"positive": True}
CASES: dict[str, Case] = {
    "a pool between, and the convolution is an output": _case(
        lambda s, x: (s.n(F.max_pool2d(y := s.c(x), 2)), y), c=conv(), n=bn(), kept=1,
        reason="the result of c (conv2d) is also an output", **_POSITIVE,
    ),
    "a pool between, and the convolution is used elsewhere": _case(
        lambda s, x: (s.n(F.max_pool2d(y := s.c(x), 2)), y.sigmoid()), c=conv(), n=bn(), kept=1,
        reason="the result of c (conv2d) is also used by sigmoid (sigmoid)", **_POSITIVE,
    ),
    "what is made of it is an output": _case(
        lambda s, x: s.n(x).flatten(2), n=bn(3), kept=1,
        reason="what flatten (flatten) makes of it is an output",
    ),
    "an input in a sum": _case(
        lambda s, x: s.n(s.c(x) + x.flip(3)), c=conv(3, 3, padding=1), n=bn(3), kept=1,
        reason="x, which would have to change with it, is an input",
    ),
    "divided by it": _case(
        lambda s, x: s.c(x / s.n(x)), c=conv(), n=bn(3), kept=1,
        reason="divides one activation by another",
    ),
    "multiplied with itself": _case(
        lambda s, x: s.c((y := s.n(x)) * y), c=conv(), n=bn(3), kept=1,
        reason="multiplies two activations",
    ),
    "a quotient before": _case(
        lambda s, x: s.n(s.c(x) / s.d(x)), c=conv(), d=conv(), n=bn(), kept=1,
        reason="a quotient of two activations",
    ),
    "a sum with what is repeated": _case(
        lambda s, x: s.c(s.n(x) + x.mean((2, 3), keepdim=True)), c=conv(), n=bn(3), kept=1,
        reason="does not have the same scale",
    ),
    "it is the bias of a product": _case(
        lambda s, x: torch.addmm(s.n(x), x, s.w), (3, 4), n=bn(4, 1), w=numbers(4, 4), kept=1,
        reason="it is the bias of addmm",
    ),
    "it is what a constant is multiplied with": _case(
        lambda s, x: F.linear(s.w, s.n(x)), (3, 4), n=bn(4, 1), w=numbers(5, 4), kept=1,
        reason="it is the second operand of linear",
    ),
    "a product of two activations": _case(
        lambda s, x: s.n(torch.bmm(x, x.transpose(1, 2))), (2, 3, 3), n=bn(3, 1), kept=1,
        reason="bmm (bmm) lies between",
    ),
    "sums of a growing number of values": _case(
        lambda s, x: s.c(s.n(x).cumsum(3)), c=conv(), n=bn(3), kept=1,
        reason="sums a growing number of values",
    ),
    "a grid beyond the border": _case(
        lambda s, x: s.c(F.grid_sample(s.n(x), s.g.expand(2, -1, -1, -1), align_corners=False)),
        c=conv(), n=bn(3), g=numbers(1, 4, 4, 2), kept=1,
        reason="grid_sampler (grid_sampler) lies between and counts zeros",
    ),
    "windows that leave gaps": _case(
        lambda s, x: F.conv_transpose2d(s.n(x), s.w, stride=3), n=bn(3), w=numbers(3, 4, 2, 2),
        kept=1, reason="leave gaps",
    ),
    "two norms and a constant before padding": _case(
        lambda s, x: s.c(s.m(s.n(x)) + s.k), n=bn(3), m=bn(3), k=numbers(3, 6, 6),
        c=conv(padding=1), **_POSITIVE,
    ),
    "two norms and a constant before a product": _case(
        lambda s, x: s.f(s.m(s.n(x)).transpose(1, 2) + s.t), (2, 3, 5), n=bn(3, 1), m=bn(3, 1),
        t=numbers(5, 3), f=linear(3, 4), **_POSITIVE,
    ),
}  # fmt: skip
