# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""Weights that are computed from the input: CondConv, mixtures of experts, dynamic filters."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.folding.peers.torch_cases import Case, _case, bn, conv, linear, numbers


class CondConv(nn.Module):
    """A mixture of kernels for each sample: https://arxiv.org/abs/1904.04971.

    All samples are convolved at once, as groups of one: the number of groups is the batch's.
    """

    def __init__(self, i: int, o: int, k: int = 3, experts: int = 3, groups: int = 1,
                 biased: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.sizes, self.padding, self.groups = (o, i // groups, k, k), k // 2, groups
        self.route = nn.Linear(i, experts)
        self.kernels = nn.Parameter(torch.randn(experts, o * (i // groups) * k * k))
        self.shifts = nn.Parameter(torch.randn(experts, o)) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        shares = torch.sigmoid(self.route(x.mean((2, 3))))
        weight = torch.matmul(shares, self.kernels).view(batch * self.sizes[0], *self.sizes[1:])
        bias = None if self.shifts is None else torch.matmul(shares, self.shifts).view(-1)
        y = F.conv2d(
            x.reshape(1, batch * channels, height, width), weight, bias, padding=self.padding,
            groups=batch * self.groups,
        )  # fmt: skip
        return y.permute(1, 0, 2, 3).view(batch, self.sizes[0], y.shape[-2], y.shape[-1])


def _mixed(s: Any, x: Tensor) -> Tensor:
    """One kernel for the whole batch."""
    shares = torch.softmax(s.r(x.mean((0, 2, 3))), 0)
    return (shares @ s.w.flatten(1)).view(s.w.shape[1:])


CASES: dict[str, Case] = {
    "condconv, bn": _case(lambda s, x: s.n(s.c(x)), c=lambda: CondConv(3, 4), n=bn()),
    "condconv with biases, bn": _case(
        lambda s, x: s.n(s.c(x)), c=lambda: CondConv(3, 4, biased=True), n=bn()
    ),
    "condconv of groups, bn, relu, condconv, bn": _case(
        lambda s, x: s.m(s.d(torch.relu(s.n(s.c(x))))), (2, 4, 6, 6),
        c=lambda: CondConv(4, 4, groups=4), d=lambda: CondConv(4, 6, 1, biased=True), n=bn(),
        m=bn(6),
    ),
    "conv, bn, condconv": _case(
        lambda s, x: s.c(torch.relu(s.n(s.d(x)))), c=lambda: CondConv(4, 2), d=conv(), n=bn()
    ),
    "bn, condconv": _case(
        lambda s, x: s.c(s.n(x)), c=lambda: CondConv(3, 2), n=bn(3), kept=1, reason=""
    ),
    "kernel of the batch, bn": _case(
        lambda s, x: s.n(F.conv2d(x, _mixed(s, x), padding=1)), w=numbers(3, 4, 3, 3, 3),
        r=linear(3, 3), n=bn(),
    ),
    "kernel of the batch and a bias, bn": _case(
        lambda s, x: s.n(F.conv2d(x, _mixed(s, x), s.b, padding=1)), w=numbers(3, 4, 3, 3, 3),
        r=linear(3, 3), n=bn(), b=numbers(4),
    ),
    "transposed kernel of the batch, bn": _case(
        lambda s, x: s.n(F.conv_transpose2d(x, _mixed(s, x), s.b)), w=numbers(3, 3, 4, 2, 2),
        r=linear(3, 3), n=bn(), b=numbers(4),
    ),
    "matrix of the batch, bn": _case(
        lambda s, x: s.n(F.linear(x, s.f(x.mean(0)).view(4, 5))), (3, 5), f=linear(5, 20),
        n=bn(4, 1),
    ),
    "matrix of the batch and a bias, bn": _case(
        lambda s, x: s.n(F.linear(x, s.f(x.mean(0)).view(4, 5), s.b)), (3, 5), f=linear(5, 20),
        n=bn(4, 1), b=numbers(4),
    ),
    "product with a matrix of the batch, bn": _case(
        lambda s, x: s.n(x @ s.f(x.mean(0)).view(5, 4)), (3, 5), f=linear(5, 20), n=bn(4, 1)
    ),
    "sum and product with a matrix of the batch, bn": _case(
        lambda s, x: s.n(torch.addmm(s.b, x, s.f(x.mean(0)).view(5, 4), beta=0.5, alpha=2.0)),
        (3, 5), f=linear(5, 20), n=bn(4, 1), b=numbers(4),
    ),
    "matrix and bias of the batch, bn, bn": _case(
        lambda s, x: s.m(s.n(F.linear(x, (w := s.f(x.mean(0)).view(4, 6))[:, 1:], w[:, 0]))),
        (3, 5), f=linear(5, 24), n=bn(4, 1), m=bn(4, 1),
    ),
    "two norms of one kernel of the batch": _case(
        lambda s, x: s.n(F.conv2d(x, w := _mixed(s, x))) + s.m(F.conv2d(x.sin(), w)),
        w=numbers(3, 4, 3, 3, 3), r=linear(3, 3), n=bn(), m=bn(), kept=2,
        reason="is computed from the input",
    ),
    "kernel of the batch behind a softmax, bn": _case(
        lambda s, x: s.n(F.conv2d(x, torch.softmax(_mixed(s, x), 1))), w=numbers(3, 4, 3, 3, 3),
        r=linear(3, 3), n=bn(), kept=1, reason="is computed from the input",
    ),
    "kernel of the batch, relu, bn": _case(
        lambda s, x: s.n(torch.relu(F.conv2d(x, _mixed(s, x)))), w=numbers(3, 4, 3, 3, 3),
        r=linear(3, 3), n=bn(), kept=1, reason="only a positive scale",
    ),
    "kernel times a number for each channel, bn": _case(
        lambda s, x: s.n(F.conv2d(x, s.w * s.r(x.mean((0, 2, 3))).view(4, 1, 1, 1), s.b)),
        w=numbers(4, 3, 3, 3), r=linear(3, 4), n=bn(), b=numbers(4),
    ),
    "kernel over a number for each channel, bn": _case(
        lambda s, x: s.n(F.conv2d(x, s.w / s.r(x.mean((0, 2, 3))).exp().view(4, 1, 1, 1))),
        w=numbers(4, 3, 3, 3), r=linear(3, 4), n=bn(),
    ),
    "kernel of a product that is summed, bn": _case(
        lambda s, x: s.n(
            F.conv2d(x, (s.r(x.mean((0, 2, 3))).view(3, 1, 1, 1, 1) * s.w).sum(0), s.b)
        ),
        w=numbers(3, 4, 3, 3, 3), r=linear(3, 3), n=bn(), b=numbers(4),
    ),
    "a product of a place and a constant of all, scale": _case(
        lambda s, x: s.n(s.c(x).mean((2, 3), keepdim=True).tanh() * s.t), c=conv(), n=bn(),
        t=numbers(4, 3, 3), scale_only=True,
    ),
    "a product of a place and a constant of all, bn": _case(
        lambda s, x: s.n(s.c(x).mean((2, 3), keepdim=True).tanh() * s.t), c=conv(), n=bn(),
        t=numbers(4, 3, 3), kept=1, reason="gives it another shape",
    ),
    "a constant that two products share, one before a scale": _case(
        lambda s, x: s.n((y := s.c(x).mean((2, 3), keepdim=True).tanh()) * s.t) + y * s.t,
        c=conv(), n=bn(), t=numbers(4, 3, 3), scale_only=True,
    ),
    "one channel times a constant of all, scale": _case(
        lambda s, x: s.n(s.c(x).tanh() * s.t), c=conv(3, 1), n=bn(), t=numbers(4, 1, 1),
        scale_only=True,
    ),
    "a constant over an activation, scale": _case(
        lambda s, x: s.n(s.t / s.c(x).exp()), c=conv(3, 1), n=bn(), t=numbers(4, 1, 1),
        scale_only=True,
    ),
    "an activation over a constant that repeats it, scale": _case(
        lambda s, x: s.n(s.c(x).exp() / s.t), c=conv(3, 1), n=bn(), t=numbers(4, 1, 1),
        scale_only=True, kept=1, reason="gives it another shape",
    ),
    "an activation over a constant that repeats it, positive scale": _case(
        lambda s, x: s.n(s.c(x).exp() / s.t), c=conv(3, 1), n=bn(), t=numbers(4, 1, 1),
        scale_only=True, positive=True,
    ),
    "a constant over an activation, bn": _case(
        lambda s, x: s.n(s.t / s.c(x).exp()), c=conv(3, 1), n=bn(), t=numbers(4, 1, 1), kept=1,
        reason="divides a constant by it",
    ),
}  # fmt: skip
