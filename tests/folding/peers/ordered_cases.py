# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""Calls that compare, sort or add up along an axis: the sign of a scale matters, or the axis."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.folding.peers.torch_cases import Case, _case, bn, conv, linear, numbers

_ORDERED: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "sort": lambda x, axis: torch.sort(x, axis)[0],
    "sort, descending and stable": lambda x, axis: torch.sort(
        x, dim=axis, descending=True, stable=True
    )[0],
    "topk": lambda x, axis: torch.topk(x, 2, axis)[0],
    "topk of the smallest": lambda x, axis: torch.topk(x, 3, axis, largest=False)[0],
    "kthvalue": lambda x, axis: torch.kthvalue(x, 2, axis, keepdim=True)[0],
    "median": lambda x, axis: torch.median(x, axis, keepdim=True)[0],
    "quantile": lambda x, axis: torch.quantile(x, 0.3, axis, keepdim=True),
    "cummax": lambda x, axis: torch.cummax(x, axis)[0],
    "cummin": lambda x, axis: torch.cummin(x, axis)[0],
}
CASES: dict[str, Case] = {}
for _name, _run in _ORDERED.items():
    CASES |= {
        f"conv, {_name}, bn": _case(
            lambda s, x, run=_run: s.n(run(s.c(x), 3)), c=conv(), n=bn(), positive=True
        ),
        f"bn, {_name}, conv": _case(
            lambda s, x, run=_run: s.c(run(s.n(x), 2)), c=conv(3, 4, 1), n=bn(3), positive=True
        ),
        f"conv, {_name}, bn with negative scales": _case(
            lambda s, x, run=_run: s.n(run(s.c(x), 3)), c=conv(), n=bn(), kept=1,
            reason="turns the order of its numbers round",
        ),
        f"bn, {_name} of the channels, conv": _case(
            lambda s, x, run=_run: s.c(run(s.n(x), 1)[:, :1]), c=conv(1, 2, 1), n=bn(3), kept=1,
            positive=True, reason="mixes its channels",
        ),
    }  # fmt: skip
CASES |= {
    "sort whose places are read": _case(
        lambda s, x: [s.n(part) if part.is_floating_point() else part for part in s.c(x).sort(3)],
        c=conv(), n=bn(), kept=1, positive=True, reason="also used by",
    ),
    "conv, running sum, scale": _case(
        lambda s, x: s.n(s.c(x).cumsum(2)), c=conv(), n=bn(), scale_only=True
    ),
    "conv, running sum, bn": _case(
        lambda s, x: s.n(s.c(x).cumsum(2)), c=conv(), n=bn(), kept=1, reason="a growing number"
    ),
    "scale, running sum, linear": _case(
        lambda s, x: s.f(s.n(x).cumsum(-1).transpose(1, 2)), (2, 3, 5), n=bn(3, 1), f=linear(3, 4),
        scale_only=True,
    ),
    "running sum of the channels": _case(
        lambda s, x: s.c(s.n(x).cumsum(1)), c=conv(), n=bn(3), scale_only=True, kept=1,
        reason="mixes its channels",
    ),
    "conv, not above 0, scale": _case(
        lambda s, x: s.n(s.c(x).clamp(max=0.0)), c=conv(), n=bn(), scale_only=True, positive=True
    ),
    "scale, not above 0, conv": _case(
        lambda s, x: s.c(torch.clamp_max(s.n(x), 0)), c=conv(), n=bn(3), scale_only=True,
        positive=True,
    ),
}  # fmt: skip

_LARGER = {"maximum": torch.maximum, "minimum": torch.minimum, "fmax": torch.fmax,
           "fmin": torch.fmin, "max": torch.max}  # fmt: skip
for (_name, _larger), _where in itertools.product(_LARGER.items(), (0, 1)):
    _of = lambda x, t, run=_larger, where=_where: run(  # noqa: E731
        *((t, x) if where else (x, t))
    )
    CASES |= {
        f"conv, {_name} of a constant ({_where}), bn": _case(
            lambda s, x, of=_of: s.n(of(s.c(x), s.t)), c=conv(), n=bn(), t=numbers(4, 1, 1),
            positive=True,
        ),
        f"bn, {_name} of a constant ({_where}), conv": _case(
            lambda s, x, of=_of: s.c(of(s.n(x), s.t)), c=conv(), n=bn(3), t=numbers(6),
            positive=True,
        ),
    }  # fmt: skip
CASES |= {
    "conv, larger than a number, bn": _case(
        lambda s, x: s.n(torch.maximum(s.c(x), s.t)), c=conv(), n=bn(), t=numbers(), positive=True
    ),
    "conv, between two constants, bn, relu, conv": _case(
        lambda s, x: s.d(
            torch.relu(s.n(torch.minimum(s.u, torch.maximum(s.c(x), s.t))))
        ),
        c=conv(), d=conv(4, 2), n=bn(), t=numbers(4, 1, 1), u=numbers(4, 4, 4), positive=True,
    ),
    "conv, larger than a constant, bn with negative scales": _case(
        lambda s, x: s.n(torch.maximum(s.c(x), s.t)), c=conv(), n=bn(), t=numbers(4, 1, 1), kept=1,
        reason="turns the order of its numbers round",
    ),
    "maxout, bn": _case(
        lambda s, x: s.n(torch.maximum(s.c(x), s.d(x))), c=conv(), d=conv(), n=bn(), positive=True
    ),
    "maxout of one place and all, bn": _case(
        lambda s, x: s.n(torch.maximum(s.c(x), s.d(x).mean((2, 3), keepdim=True))), c=conv(),
        d=conv(), n=bn(), positive=True,
    ),
    "bn, larger of it and its mirror, conv": _case(
        lambda s, x: s.c(torch.maximum(y := s.n(x), y.flip(3))), c=conv(), n=bn(3), positive=True
    ),
    "bn, larger of it and its input, conv": _case(
        lambda s, x: s.c(torch.maximum(s.n(x), x)), c=conv(), n=bn(3), positive=True, kept=1,
        reason="what does not have its scale and shift",
    ),
    "a constant that a sum and a maximum share": _case(
        lambda s, x: s.n(torch.maximum(s.c(x), s.t)) + s.t, c=conv(), n=bn(), t=numbers(4, 1, 1),
        positive=True,
    ),
    "a constant that repeats what it is compared with": _case(
        lambda s, x: s.c(torch.maximum(s.n(x).mean((2, 3), keepdim=True), s.t)), c=conv(), n=bn(3),
        t=numbers(3, 6, 6), positive=True,
    ),
    "channels that a constant repeats": _case(
        lambda s, x: s.n(torch.maximum(s.c(x), s.t)), c=conv(3, 1), n=bn(), t=numbers(4, 1, 1),
        positive=True, kept=1, reason="repeats an operand",
    ),
    # Of three channels, the first has a scale of 0 and the last a negative one.
    "bn, pool, its first channel, conv": _case(
        lambda s, x: s.c(F.max_pool2d(s.n(x), 2)[:, :1]), c=conv(1), n=bn(3)
    ),
    "bn, pool, its last channel, conv": _case(
        lambda s, x: s.c(F.max_pool2d(s.n(x), 2)[:, 2:]), c=conv(1), n=bn(3), kept=1,
        reason="turns the order of its numbers round",
    ),
    "conv, pool, bn, its first channel": _case(
        lambda s, x: s.n(F.max_pool2d(s.c(x), 2)).sigmoid()[:, :1], c=conv(), n=bn()
    ),
    "conv, relu, scale, its first channel": _case(
        lambda s, x: s.n(F.relu(s.c(x))).sigmoid()[:, :1], c=conv(), n=bn(), scale_only=True
    ),
    "conv, pool, bn, its first and its last channel": _case(
        lambda s, x: [(y := s.n(F.max_pool2d(s.c(x), 2)).sigmoid())[:, :1], y[:, 3:]], c=conv(),
        n=bn(), kept=1, reason="turns the order of its numbers round",
    ),
    "bn, pool, sums of channels": _case(
        lambda s, x: s.c((y := F.max_pool2d(s.n(x), 2))[:, :1] + y[:, 2:]), c=conv(1), n=bn(3),
        kept=1, reason="turns the order of its numbers round",
    ),
    "bn, pool, a channel picked twice": _case(
        lambda s, x: s.c(F.max_pool2d(s.n(x), 2)[:, torch.tensor([0, 0])]), c=conv(2), n=bn(3)
    ),
    "bn whose result is read in part and whole": _case(
        lambda s, x: s.c(F.max_pool2d(y := s.n(x), 2)[:, :1]) + y.mean(), c=conv(1), n=bn(3),
        kept=1, reason="",
    ),
    "bn as a grid, its first channel": _case(
        lambda s, x: F.grid_sample(
            x, s.n(s.c(x)).permute(0, 2, 3, 1), align_corners=False, padding_mode="border"
        )[:, :1],
        c=conv(3, 2), n=bn(2),
    ),
    "bn as a grid alone, its first channel": _case(
        lambda s, x: F.grid_sample(
            x, s.n(x[:, :2]).permute(0, 2, 3, 1), align_corners=False, padding_mode="border"
        )[:, :1],
        n=bn(2), kept=1, reason="reads it as another operand",
    ),
    "bn as slopes, their first channel": _case(
        lambda s, x: F.prelu(s.c(x), s.n(x).mean((0, 2, 3)))[:, :1], c=conv(3, 3), n=bn(3), kept=1,
        reason="reads it as another operand",
    ),
}  # fmt: skip
