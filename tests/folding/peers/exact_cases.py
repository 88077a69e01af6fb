# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""Folds that are exact and that few tools do: every linear call that people put beside a norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.folding.peers.torch_cases import Case, _case, _chain, bn, conv, linear, numbers

_ONLY_SCALE: dict[str, Any] = {"positive": True, "scale_only": True}
CASES: dict[str, Case] = {}


class Renorm(nn.Module):
    """Batch Renormalization in eval mode: of a layer of one's own, with names of one's own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-3
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.ones(channels)),
        )
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_std", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = [
            t.view(1, -1, 1, 1)
            for t in (self.running_mean, self.running_std, self.weight, self.bias)
        ]
        return wide[2] * ((x - wide[0]) / (wide[1] + self.eps)) + wide[3]


class Rms(nn.Module):
    """Gemma's: (1 + weight)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return h * (1.0 + self.weight)


def _after(layer: Any, channels: int, shape: tuple[int, ...], **more: Any) -> Case:
    return _case(lambda s, x: s.n(layer(s, x).transpose(1, 2)), shape, n=bn(channels, 1), **more)


def _before(layer: Any, channels: int, shape: tuple[int, ...], **more: Any) -> Case:
    return _case(lambda s, x: layer(s, s.n(x).transpose(1, 2)), shape, n=bn(channels, 1), **more)


CASES |= {
    # products
    "expanded weight": _after(
        lambda s, x: torch.matmul(x, s.w.unsqueeze(0).expand(x.shape[0], -1, -1)),
        4,
        (2, 3, 5),
        w=numbers(5, 4),
    ),
    "bmm of an expanded weight": _after(
        lambda s, x: torch.bmm(x, s.w.expand(x.shape[0], -1, -1)), 4, (2, 3, 5), w=numbers(1, 5, 4)
    ),
    "bn bmm of an expanded weight": _before(
        lambda s, x: torch.bmm(x, s.w.expand(x.shape[0], -1, -1)), 5, (2, 5, 3), w=numbers(1, 5, 4)
    ),
    "baddbmm": _after(
        lambda s, x: torch.baddbmm(s.b, x, s.w.expand(x.shape[0], -1, -1)),
        4,
        (2, 3, 5),
        w=numbers(1, 5, 4),
        b=numbers(1, 1, 4),
    ),
    "weight with a batch axis of 1": _after(lambda s, x: x @ s.w, 4, (2, 3, 5), w=numbers(1, 5, 4)),
    "bn weight with a batch axis of 1": _before(
        lambda s, x: x @ s.w, 5, (2, 5, 3), w=numbers(1, 5, 4)
    ),
    "weight of its own for each head": _case(
        lambda s, x: s.n((x @ s.w).transpose(1, 2).flatten(2).transpose(1, 2)),
        (2, 3, 4, 5),
        w=numbers(3, 5, 2),
        n=bn(6, 1),
    ),
    "bn weight of its own for each head": _case(
        lambda s, x: s.n(x).unflatten(1, (3, 5)).transpose(2, 3) @ s.w,
        (2, 15, 4),
        w=numbers(3, 5, 2),
        n=bn(15, 1),
    ),
    "weight of its own for each place": _case(
        lambda s, x: s.n((x.unsqueeze(2) @ s.w).squeeze(2).flatten(1)),
        (2, 3, 5),
        w=numbers(3, 5, 2),
        n=bn(6, 1),
    ),
    "mv": _case(lambda s, x: s.n(x) @ s.w, (2, 5), w=numbers(5), n=bn(5, 1)),
    "mv of mats": _case(lambda s, x: torch.mv(s.n(x), s.w), (2, 5), w=numbers(5), n=bn(5, 1)),
    "functional linear to a number": _case(
        lambda s, x: F.linear(s.n(x), s.w),
        (2, 5),
        w=numbers(5),
        n=bn(5, 1),
    ),
    "tensordot": _case(
        lambda s, x: s.n(torch.tensordot(x, s.w, ([2], [0])).transpose(1, 2)),
        (2, 3, 5),
        w=numbers(5, 4),
        n=bn(4, 1),
    ),
    "bn tensordot of two axes": _case(
        lambda s, x: torch.tensordot(s.n(x), s.w, ([1, 2], [0, 1])),
        (2, 3, 5),
        w=numbers(3, 5, 4),
        n=bn(3, 1),
    ),
    "einsum that makes two axes": _case(
        lambda s, x: s.n(torch.einsum("bti,ihd->bhdt", x, s.w).flatten(1, 2)),
        (2, 3, 5),
        w=numbers(5, 2, 4),
        n=bn(8, 1),
    ),
    "bn einsum that sums over two axes": _case(
        lambda s, x: torch.einsum("bhdt,hdo->bto", s.n(x).unflatten(1, (2, 4)), s.w),
        (2, 8, 3),
        w=numbers(2, 4, 5),
        n=bn(8, 1),
    ),
    "einsum for each head": _case(
        lambda s, x: s.n(torch.einsum("bhti,hio->bhot", x, s.w).flatten(1, 2)),
        (2, 3, 4, 5),
        w=numbers(3, 5, 2),
        n=bn(6, 1),
    ),
    "bn einsum for each head": _case(
        lambda s, x: torch.einsum("bhit,hio->bhto", s.n(x).unflatten(1, (3, 5)), s.w),
        (2, 15, 4),
        w=numbers(3, 5, 2),
        n=bn(15, 1),
    ),
    "bn einsum of a scale for each channel": _case(
        lambda s, x: s.c(torch.einsum("bchw,c->bchw", s.n(x), s.w)), w=numbers(3), n=bn(3), c=conv()
    ),
    "bn einsum to a number": _case(
        lambda s, x: torch.einsum("bchw,c->bhw", s.n(x), s.w), w=numbers(3), n=bn(3)
    ),
    "bn einsum over all": _case(
        lambda s, x: torch.einsum("bchw,chw->b", s.n(x), s.w),
        (2, 3, 4, 4),
        w=numbers(3, 4, 4),
        n=bn(3),
    ),
    "conv_tbc": _case(
        lambda s, x: s.n(torch.conv_tbc(x, s.w, s.b, 1).permute(1, 2, 0)),
        (7, 2, 5),
        w=numbers(3, 5, 4),
        b=numbers(4),
        n=bn(4, 1),
    ),
    "bn conv_tbc": _case(
        lambda s, x: torch.conv_tbc(s.n(x).permute(2, 0, 1).contiguous(), s.w, s.b, 0),
        (2, 5, 7),
        w=numbers(3, 5, 4),
        b=numbers(4),
        n=bn(5, 1),
    ),
    "bn padded conv_tbc": _case(
        lambda s, x: torch.conv_tbc(s.n(x).permute(2, 0, 1).contiguous(), s.w, s.b, 1),
        (2, 5, 7),
        w=numbers(3, 5, 4),
        b=numbers(4),
        n=bn(5, 1),
        kept=1,
        reason="pads with zeros",
    ),
    "addmm of a transposed weight": _case(
        lambda s, x: s.n(torch.addmm(s.b, x, s.w.t())),
        (2, 5),
        w=numbers(4, 5),
        b=numbers(4),
        n=bn(4, 1),
    ),
    "addbmm": _case(
        lambda s, x: s.n(torch.addbmm(s.b, x.unsqueeze(0), s.w)),
        (2, 5),
        w=numbers(1, 5, 4),
        b=numbers(4),
        n=bn(4, 1),
    ),
    # bilinear, embeddings
    "bilinear bn": _case(
        lambda s, x: s.n(s.b(x, x)), (2, 5), b=lambda: nn.Bilinear(5, 5, 4), n=bn(4, 1)
    ),
    "bn bilinear, a scale": _case(
        lambda s, x: s.b(s.n(x), x),
        (2, 5),
        b=lambda: nn.Bilinear(5, 5, 4),
        n=bn(5, 1),
        scale_only=True,
    ),
    "bn bilinear, second": _case(
        lambda s, x: s.b(x, s.n(x)),
        (2, 5),
        b=lambda: nn.Bilinear(5, 5, 4),
        n=bn(5, 1),
        kept=1,
        reason="the second input",
    ),
    "bn bilinear": _case(
        lambda s, x: s.b(s.n(x), x),
        (2, 5),
        b=lambda: nn.Bilinear(5, 5, 4),
        n=bn(5, 1),
        kept=1,
        reason="which no shift passes",
    ),
    "embedding bn": _case(
        lambda s, x: s.n(s.e(x.argsort(1)).transpose(1, 2)),
        (2, 5),
        e=lambda: nn.Embedding(5, 4),
        n=bn(4, 1),
    ),
    "embedding bag bn": _case(
        lambda s, x: s.n(s.e(x.argsort(1))),
        (2, 5),
        e=lambda: nn.EmbeddingBag(5, 4, mode="mean"),
        n=bn(4, 1),
    ),
    "embedding bag sum bn": _case(
        lambda s, x: s.n(s.e(x.argsort(1))),
        (2, 5),
        e=lambda: nn.EmbeddingBag(5, 4, mode="sum"),
        n=bn(4, 1),
    ),
    # norms
    "batch renorm": _chain(conv(), lambda: Renorm(4), norms="all"),
    "batch renorm, batch only": _chain(conv(), lambda: Renorm(4)),
    "tracked instance norm": _chain(
        conv(), lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    ),
    "tracked instance norm before": _chain(
        lambda: nn.InstanceNorm2d(3, track_running_stats=True), conv()
    ),
    "weight norm": _chain(
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), bn(), norms="all"
    ),
    "weight norm of a linear": _chain(
        lambda: parametrizations.weight_norm(nn.Linear(3, 4)), bn(4, 1), shape=(2, 3), norms="all"
    ),
    "weight norm, whole": _chain(
        lambda: parametrizations.weight_norm(nn.Linear(3, 4), dim=None),
        bn(4, 1),
        shape=(2, 3),
        norms="all",
    ),
    "weight norm of a convT": _chain(
        lambda: parametrizations.weight_norm(nn.ConvTranspose2d(3, 4, 3)), bn(), norms="all"
    ),
    "old weight norm": _chain(lambda: torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), norms="all"),
    "spectral norm": _chain(
        lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), bn(), norms="all"
    ),
    "spectral norm of an embedding": _case(
        lambda s, x: s.e(x.argsort(1)),
        (2, 5),
        e=lambda: parametrizations.spectral_norm(nn.Embedding(5, 4)),
        norms="all",
    ),
    "orthogonal": _chain(
        lambda: parametrizations.orthogonal(nn.Linear(4, 4)), bn(4, 1), shape=(2, 4)
    ),
    "gemma": _chain(lambda: Rms(5), linear(5, 4), shape=(2, 3, 5), norms="all"),
    "layer norm of an image linear": _chain(
        lambda: nn.LayerNorm((3, 4, 4)), nn.Flatten, linear(48, 4), shape=(2, 3, 4, 4), norms="all"
    ),
    "layer norm of an image conv": _chain(
        lambda: nn.LayerNorm((3, 4, 4)), conv(), shape=(2, 3, 4, 4), norms="all", kept=1
    ),
    "group norm by hand": _case(
        lambda s, x: s.c(F.group_norm(x, 1, s.g, s.b)),
        n=conv(),
        g=numbers(3),
        b=numbers(3),
        c=conv(),
        norms="all",
    ),
    "group norm unaffine bn conv": _chain(
        lambda: nn.GroupNorm(1, 3, affine=False), bn(3), conv(padding=1)
    ),
    "layer norm lstm": _case(
        lambda s, x: s.r(s.n(x))[0],
        (5, 2, 3),
        n=lambda: nn.LayerNorm(3),
        r=lambda: nn.LSTM(3, 4),
        norms="all",
    ),
    "layer norm multihead attention": _case(
        lambda s, x: s.a(y := s.n(x), y, y)[0],
        (5, 2, 4),
        n=lambda: nn.LayerNorm(4),
        a=lambda: nn.MultiheadAttention(4, 2),
        norms="all",
    ),
    "bn multihead attention": _case(
        lambda s, x: s.a(y := s.n(x).permute(2, 0, 1), y, y)[0],
        (2, 4, 5),
        n=bn(4, 1),
        a=lambda: nn.MultiheadAttention(4, 2),
    ),
    "bn transformer layer": _case(
        lambda s, x: s.a(s.n(x).permute(2, 0, 1)),
        (2, 4, 5),
        n=bn(4, 1),
        a=lambda: nn.TransformerEncoderLayer(4, 2, 5, norm_first=True),
        kept=1,
    ),
    # scale and constants
    "scale relu and constant": _case(
        lambda s, x: s.c(torch.relu(s.n(x)) + 1.0), n=bn(3), c=conv(padding=1), **_ONLY_SCALE
    ),
    "scale and constants of places": _case(
        lambda s, x: s.c(torch.relu(s.n(x)) + s.t),
        n=bn(3),
        t=numbers(3, 6, 6),
        c=conv(padding=1),
        **_ONLY_SCALE,
    ),
    "conv and constants of places bn": _case(
        lambda s, x: s.n(s.c(x) + s.t), n=bn(4), t=numbers(4, 4, 4), c=conv()
    ),
    "bn and position embedding linear": _case(
        lambda s, x: s.f(s.n(x).transpose(1, 2) + s.t),
        (2, 3, 5),
        n=bn(3, 1),
        t=numbers(5, 3),
        f=linear(3, 4),
        positive=True,
    ),
    "bn with a scale of 0 and position embedding linear": _case(
        lambda s, x: s.f(s.n(x).transpose(1, 2) + s.t),
        (2, 3, 5),
        n=bn(3, 1),
        t=numbers(5, 3),
        f=linear(3, 4),
        kept=1,
        reason="some of its scales are 0, before the constant",
    ),
    "bn and position embedding padded conv": _case(
        lambda s, x: s.c(s.n(x) + s.t),
        n=bn(3),
        t=numbers(3, 6, 6),
        c=conv(padding=1),
        positive=True,
    ),
    "gated rms norm linear": _case(
        lambda s, x: s.f(s.n(x) * F.silu(s.g(x))),
        (2, 3, 5),
        n=lambda: nn.RMSNorm(5),
        g=linear(5, 5),
        f=linear(5, 4),
        norms="all",
    ),
    "cat of a constant bn": _case(
        lambda s, x: s.n(torch.cat([s.c(x), s.t.expand(x.shape[0], -1, -1, -1)], 1)),
        n=bn(6),
        t=numbers(1, 2, 4, 4),
        c=conv(),
    ),
    "class token bn": _case(
        lambda s, x: s.n(torch.cat([s.t.expand(x.shape[0], -1, -1), s.f(x)], 1).transpose(1, 2)),
        (2, 3, 5),
        n=bn(4, 1),
        t=numbers(1, 1, 4),
        f=linear(5, 4),
    ),
    # computed weights
    "cond conv": _case(lambda s, x: s.n(_cond(s, x)), r=linear(3, 2), w=numbers(2, 108), n=bn(4)),
    "bn of a weight norm by hand": _case(
        lambda s, x: s.n(F.conv2d(x, s.w / s.w.flatten(1).norm(dim=1).view(-1, 1, 1, 1))),
        w=numbers(4, 3, 3, 3),
        n=bn(4),
    ),
    "weight standardisation": _case(
        lambda s, x: s.n(
            F.conv2d(
                x, (s.w - s.w.mean((1, 2, 3), keepdim=True)) / s.w.std((1, 2, 3), keepdim=True)
            )
        ),
        w=numbers(4, 3, 3, 3),
        n=bn(4),
    ),
    "lora": _case(
        lambda s, x: s.n(s.f(x) + s.b(s.a(x)) * 0.5),
        (2, 5),
        f=linear(5, 4),
        a=linear(5, 2, bias=False),
        b=linear(2, 4, bias=False),
        n=bn(4, 1),
    ),
    "unfold linear": _case(
        lambda s, x: s.n(s.f(F.unfold(x, 2, stride=2).transpose(1, 2)).transpose(1, 2)),
        f=linear(12, 4),
        n=bn(4, 1),
    ),
    "bn unfold linear": _case(
        lambda s, x: s.f(F.unfold(s.n(x), 2, stride=2).transpose(1, 2)), f=linear(12, 4), n=bn(3)
    ),
    "bn patches": _case(
        lambda s, x: s.f(
            s.n(x).unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3)
        ),
        f=linear(12, 4),
        n=bn(3),
    ),
    "convT bn tail": _chain(lambda: nn.ConvTranspose2d(3, 4, 2, 2, groups=1), bn(4), nn.Sigmoid),
    "rnn cell": _case(lambda s, x: s.r(s.n(x)), (2, 5), n=bn(5, 1), r=lambda: nn.GRUCell(5, 4)),
    "lstm cell": _case(
        lambda s, x: s.r(s.n(x))[0], (2, 5), n=bn(5, 1), r=lambda: nn.LSTMCell(5, 4)
    ),
    "lstm relu bn before": _case(
        lambda s, x: s.r(s.n(x).permute(2, 0, 1))[0], (2, 5, 3), n=bn(5, 1), r=lambda: nn.LSTM(5, 4)
    ),
    "lstm scale without bias": _case(
        lambda s, x: s.r(s.n(x).permute(2, 0, 1))[0],
        (2, 5, 3),
        n=bn(5, 1),
        r=lambda: nn.LSTM(5, 4, bias=False),
        scale_only=True,
    ),
    "lstm without bias": _case(
        lambda s, x: s.r(s.n(x).permute(2, 0, 1))[0],
        (2, 5, 3),
        n=bn(5, 1),
        r=lambda: nn.LSTM(5, 4, bias=False),
        kept=1,
        reason="has no bias",
    ),
    "glu": _case(lambda s, x: s.n(F.glu(s.c(x), 1)), c=conv(3, 8), n=bn(4), kept=1),
    "conv gate bn": _case(
        lambda s, x: s.n(s.c(x) * torch.sigmoid(s.d(x))), c=conv(), d=conv(), n=bn(4), kept=1
    ),
    "se bn": _case(
        lambda s, x: s.n((y := s.c(x)) * torch.sigmoid(y.mean((2, 3), keepdim=True))),
        c=conv(),
        n=bn(4),
        kept=1,
    ),
    "gate times conv, scale": _case(
        lambda s, x: s.n(s.c(x) * torch.sigmoid(s.d(x))),
        c=conv(),
        d=conv(),
        n=bn(4),
        scale_only=True,
    ),
    "bn gate conv, scale": _case(
        lambda s, x: s.e(s.n(x) * torch.sigmoid(s.d(x))),
        d=conv(3, 3, padding=1),
        e=conv(),
        n=bn(3),
        scale_only=True,
    ),
}


def _cond(s: Any, x: Tensor) -> Tensor:
    """CondConv: a kernel for each image, mixed of two."""
    weight = torch.sigmoid(s.r(x.mean((2, 3)))) @ s.w
    n = x.shape[0]
    y = F.conv2d(x.reshape(1, n * 3, 6, 6), weight.view(n * 4, 3, 3, 3), groups=n)
    return y.view(n, 4, 4, 4)
