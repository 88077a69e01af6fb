# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""Calls that a map passes between a norm and a linear call: differences, bounds, choices, means by
an attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from tests.folding.peers.torch_cases import Case, _case, bn, conv, linear, numbers

_POSITIVE: dict[str, Any] = {"positive": True}
_ROUND = "turns the order of its numbers round"
_ROWS: dict[str, Any] = {"shape": (2, 5, 4), "n": bn(4, 1), "v": linear(4, 4)}


def _norm(s: Any, y: Any) -> Any:
    return s.n(y.transpose(1, 2))


CASES: dict[str, Case] = {
    "bn, difference of neighbours, conv": _case(
        lambda s, x: s.c(s.n(x).diff(dim=3)), n=bn(3), c=conv()
    ),
    "bn, difference of differences, conv": _case(
        lambda s, x: s.c(s.n(x).diff(n=2, dim=2)), n=bn(3), c=conv()
    ),
    "bn, difference with a value before, conv": _case(
        lambda s, x: s.c(s.n(x).diff(dim=3, prepend=x[..., :1])), n=bn(3), c=conv(), kept=1,
        reason="diff (diff) lies between",
    ),
    "bn, difference of channels, conv": _case(
        lambda s, x: s.c(s.n(x).diff(dim=1)), n=bn(3), c=conv(2), kept=1,
        reason="does not have the same scale",
    ),
    "conv, difference, bn": _case(
        lambda s, x: s.n(s.c(x).diff(dim=3)), n=bn(), c=conv(), kept=1,
        reason="need different shifts",
    ),
    "conv, difference, scale": _case(
        lambda s, x: s.n(s.c(x).diff(dim=3)), n=bn(), c=conv(), scale_only=True
    ),
    "bn, without its mean, conv": _case(
        lambda s, x: s.c((y := s.n(x)) - y.mean((2, 3), keepdim=True)), n=bn(3), c=conv()
    ),
    "bn, without its largest, conv": _case(
        lambda s, x: s.c((y := s.n(x)) - y.amax(3, keepdim=True)), n=bn(3), c=conv(), **_POSITIVE
    ),
    "bn, with its mean, padded conv": _case(
        lambda s, x: s.c((y := s.n(x)) + y.mean(2, keepdim=True)), n=bn(3), c=conv(padding=1),
        kept=1, reason="pads with zeros",
    ),
    "bn, without its mean, padded conv": _case(
        lambda s, x: s.c((y := s.n(x)) - y.mean(2, keepdim=True)), n=bn(3), c=conv(padding=1)
    ),
    "bn, at least a number, conv": _case(
        lambda s, x: s.c(s.n(x).clamp(min=0.3)), n=bn(3), c=conv(), **_POSITIVE
    ),
    "bn, at most a number of each channel, conv": _case(
        lambda s, x: s.c(s.n(x).clamp(max=s.t)), n=bn(3), c=conv(), t=numbers(3, 1, 1), **_POSITIVE
    ),
    "bn, at least minus infinity, conv": _case(
        lambda s, x: s.c(s.n(x).clamp(min=-torch.inf)), n=bn(3), c=conv(), kept=1,
        reason="clamp (clamp) lies between", **_POSITIVE,
    ),
    "bn, at most a number and infinity, conv": _case(
        lambda s, x: s.c(s.n(x).clamp(0.1, torch.inf)), n=bn(3), c=conv(), kept=1,
        reason="clamp (clamp) lies between", **_POSITIVE,
    ),
    "conv, at most a number, bn": _case(
        lambda s, x: s.n(s.c(x).clamp_max(-0.2)), n=bn(), c=conv(), **_POSITIVE
    ),
    "conv, at least numbers of each place, bn": _case(
        lambda s, x: s.n(torch.clip(s.c(x), min=s.t)), n=bn(), c=conv(), t=numbers(4, 4, 4),
        **_POSITIVE,
    ),
    "conv, at least a number, bn with negative scales": _case(
        lambda s, x: s.n(s.c(x).clamp(min=0.3)), n=bn(), c=conv(), kept=1, reason=_ROUND
    ),
    "conv, between two numbers, bn": _case(
        lambda s, x: s.n(s.c(x).clamp(0.1, 0.5)), n=bn(), c=conv(), kept=1,
        reason="moves no affine map", **_POSITIVE,
    ),
    "bn, places chosen for each channel, conv": _case(
        lambda s, x: s.c(s.n(x).gather(3, x.argsort(3)[..., :5])), n=bn(3), c=conv()
    ),
    "conv, places along an axis, bn": _case(
        lambda s, x: s.n(torch.take_along_dim(s.c(x), x[:, :1, :4, :4].argsort(2), 2)), n=bn(),
        c=conv(),
    ),
    "bn, places of fewer channels, conv": _case(
        lambda s, x: s.c(s.n(x).gather(3, x[:, :2].argsort(3))), n=bn(3), c=conv(2)
    ),
    "bn, the same channels at all places, conv": _case(
        lambda s, x: s.c(s.n(x).gather(1, s.places.expand(2, -1, 6, 6))), n=bn(3), c=conv(),
        places=lambda: torch.tensor([2, 0, 2]).view(1, 3, 1, 1),
    ),
    "conv, channels in another order, bn": _case(
        lambda s, x: s.n(torch.take_along_dim(s.c(x), s.places, 1)), n=bn(), c=conv(),
        places=lambda: torch.tensor([2, 0, -1, 1]).view(1, 4, 1, 1),
    ),
    "bn, other channels at each place, conv": _case(
        lambda s, x: s.c(torch.take_along_dim(s.n(x), s.places, 1)), n=bn(3), c=conv(), kept=1,
        places=lambda: (torch.arange(18) % 4 % 3).view(1, 3, 1, 6),
        reason="does not pick the same channels at all places",
    ),
    "bn, chosen channels, conv": _case(
        lambda s, x: s.c(s.n(x).gather(1, x.argsort(1))), n=bn(3), c=conv(), kept=1,
        reason="picks channels that are not known",
    ),
    "attention, bn": _case(
        lambda s, x: _norm(s, F.scaled_dot_product_attention(x, x, s.v(x))), **_ROWS
    ),
    "attention to what was before, bn": _case(
        lambda s, x: _norm(s, F.scaled_dot_product_attention(x, x, s.v(x), is_causal=True)), **_ROWS
    ),
    "attention with a mask, bn": _case(
        lambda s, x: _norm(s, F.scaled_dot_product_attention(x, x, s.v(x), attn_mask=s.m)), **_ROWS,
        m=numbers(5, 5),
    ),
    "attention, bn over the places": _case(
        lambda s, x: s.m(F.scaled_dot_product_attention(x, x, s.v(x))), (2, 5, 4), v=linear(4, 4),
        m=bn(5, 1), kept=1, reason="mixes its channels",
    ),
    "bn, attention by it, linear": _case(
        lambda s, x: s.v(F.scaled_dot_product_attention(x, y := _norm(s, x).transpose(1, 2), y)),
        **_ROWS, kept=1, reason="computes its weights from it",
    ),
    "softmax times values, bn": _case(
        lambda s, x: _norm(s, (x @ x.transpose(1, 2)).softmax(-1) @ s.v(x)), **_ROWS
    ),
    "bn, softmax times it, linear": _case(
        lambda s, x: s.v((x @ x.transpose(1, 2)).softmax(-1) @ _norm(s, x).transpose(1, 2)), **_ROWS
    ),
    "softmax along the other axis, bn": _case(
        lambda s, x: _norm(s, (x @ x.transpose(1, 2)).softmax(1) @ s.v(x)), **_ROWS, kept=1,
        reason="moves no affine map",
    ),
    "softmax times values of one sample for all, bn": _case(
        lambda s, x: _norm(s, (x @ x.transpose(1, 2)).softmax(-1) @ s.v(x[:1])), **_ROWS, kept=1,
        reason="lies between",
    ),
    "softmax without some places, bn": _case(
        lambda s, x: _norm(s, ((x @ x.transpose(1, 2)).softmax(-1) * s.m) @ s.v(x)), **_ROWS,
        m=numbers(5, 5), kept=1, reason="moves no affine map",
    ),
}  # fmt: skip
