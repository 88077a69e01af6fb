# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""What other tools test their BatchNorm folding on, as networks of ours.

Of PyTorch (inductor's binary folding and efficient conv-bn, fx and ao fusion), AIMET's BatchNorm
folding, and TVM's FoldScaleAxis, SimplifyInference and FoldBatchnormToConv2d: what each builds, not
how. `kept` is how many normalisations must stay, with a reason that has these words.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """A network and the shapes of a batch of each input; what must stay, and why."""

    build: Make
    shape: tuple[int, ...] = (2, 3, 6, 6)
    kept: int = 0
    reason: str = ""
    norms: str = "batch"
    positive: bool = False
    scale_only: bool = False


class Net(nn.Module):
    """A network from parts, numbers and a function of them."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def _case(run: Callable[..., Any], shape: tuple[int, ...] = (2, 3, 6, 6), kept: int = 0,
          reason: str = "", norms: str = "batch", positive: bool = False,
          scale_only: bool = False, **parts: Any) -> Case:  # fmt: skip
    """A case whose parts are functions that make them."""
    build = lambda: Net(run, **{name: part() for name, part in parts.items()})  # noqa: E731
    return Case(build, shape, kept, reason, norms, positive, scale_only)


def _chain(*parts: Make, **more: Any) -> Case:
    return Case(lambda: nn.Sequential(*(part() for part in parts)), **more)


def conv(i: int = 3, o: int = 4, k: int = 3, **options: Any) -> Make:
    return lambda: nn.Conv2d(i, o, k, **options)


def linear(i: int, o: int, **options: Any) -> Make:
    return lambda: nn.Linear(i, o, **options)


def bn(channels: int = 4, dims: int = 2, **options: Any) -> Make:
    return lambda: _BN[dims](channels, **options)


def of(kind: str, i: int, o: int, k: int, **options: Any) -> Make:
    return lambda: _CONV[kind](i, o, k, **options)


def numbers(*shape: int, low: float = 0.4) -> Callable[[], Tensor]:
    return lambda: torch.rand(shape) + low


_CONV: dict[str, Any] = {
    "conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d, "convT1d": nn.ConvTranspose1d,
    "convT2d": nn.ConvTranspose2d, "convT3d": nn.ConvTranspose3d,
}  # fmt: skip
_BN: tuple[Any, ...] = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
}  # fmt: skip
CASES: dict[str, Case] = {}


# ---------------------------------------------------------------- inductor: conv, operation
for _dims, _name in itertools.product((1, 2, 3), _OPERATIONS):
    _shape = (2, 3, *(4,) * _dims)
    for _constant in ("tensor", "scalar"):
        _sizes = (1, 4, *(1,) * _dims)
        CASES[f"inductor conv{_dims}d {_name} {_constant} bn"] = _case(
            lambda s, x, op=_OPERATIONS[_name], alone=_constant == "scalar": s.n(
                op(s.c(x), 2.0 if alone else s.t)
            ),
            _shape, c=of(f"conv{_dims}d", 3, 4, 3, bias=_dims != 2), t=numbers(*_sizes),
            n=bn(4, _dims),
        )  # fmt: skip
for _name in _OPERATIONS:
    _wide = _name in ("mul", "div")
    CASES[f"inductor conv2d {_name} wide tensor bn"] = _case(
        lambda s, x, op=_OPERATIONS[_name]: s.n(op(s.c(x), s.t)),
        c=conv(), t=numbers(4, 1, 4), n=bn(), kept=int(_wide),
        reason="differ along other axes" if _wide else "",
    )  # fmt: skip
    CASES[f"inductor conv2d {_name} 1 x 1 tensor bn"] = _case(
        lambda s, x, op=_OPERATIONS[_name]: s.n(op(s.c(x), s.t)), c=conv(), t=numbers(1, 1), n=bn()
    )
    CASES[f"inductor conv2d {_name} whole number bn"] = _case(
        lambda s, x, op=_OPERATIONS[_name]: s.n(op(s.c(x), s.t)),
        c=conv(), t=lambda: torch.tensor([2], dtype=torch.int32), n=bn(),
    )  # fmt: skip

# ---------------------------------------------------------------- inductor, fx, ao: conv, bn
for _dims, _bias in itertools.product((1, 2, 3), (True, False)):
    _shape = (2, 3, *(4,) * _dims)
    _text = "" if _bias else " without bias"
    for _kind in (f"conv{_dims}d", f"convT{_dims}d"):
        CASES[f"inductor {_kind} bn{_text}"] = _chain(
            of(_kind, 3, 4, 3, stride=2, bias=_bias), bn(4, _dims), shape=_shape
        )
CASES |= {
    "inductor linear bn": _chain(linear(3, 4), bn(4, 1), shape=(5, 3)),
    "inductor linear sync bn": _chain(
        linear(3, 4, bias=False), lambda: nn.SyncBatchNorm(4), shape=(5, 3)
    ),
    "inductor conv sync bn": _chain(conv(), lambda: nn.SyncBatchNorm(4)),
    "inductor several users": _case(
        lambda s, x: (lambda y: s.n3(y) + y)(s.n3(s.c3(s.n2(s.c2(s.c2(s.n1(s.c1(x)))))))),
        c1=conv(), n1=bn(), c2=conv(4, 4, 1), n2=bn(), c3=conv(4, 4, 1), n3=bn(),
    ),
    "fx conv bn": _chain(conv(bias=False), bn()),
    "fx conv bn without statistics": _chain(
        conv(), bn(track_running_stats=False), kept=1, reason="statistics of the batch"
    ),
    "fx conv bn without affine": _chain(conv(), bn(affine=False)),
    "fx conv of float16 bn of float16": _chain(
        lambda: conv()().half(), lambda: bn()().half()
    ),
    "fx conv bn functional": _case(
        lambda s, x: F.batch_norm(
            F.conv2d(x, s.w), s.m, s.v, s.g, s.b, training=False, eps=1e-3
        ),
        w=numbers(4, 3, 3, 3), m=numbers(4), v=numbers(4), g=numbers(4, low=-0.5), b=numbers(4),
    ),
    "fx convT bn depthwise": _chain(
        lambda: nn.ConvTranspose2d(4, 4, 3, groups=4), bn(), shape=(2, 4, 5, 5)
    ),
    "fx conv used twice": _case(
        lambda s, x: s.n(s.c(x)) + s.c(x), c=conv(), n=bn()
    ),
    "fx conv with two norms": _case(
        lambda s, x: s.n(y := s.c(x)) + s.m(y), c=conv(), n=bn(), m=bn()
    ),
    "ao conv bn relu": _chain(conv(), bn(), nn.ReLU),
    "ao conv relu bn": _chain(conv(), nn.ReLU, bn(), kept=1, reason="only a positive scale"),
    "ao conv relu bn conv": _chain(conv(), nn.ReLU, bn(), conv(4, 4)),
    "ao bn relu": _chain(bn(3), nn.ReLU, kept=1, reason="input of the model"),
    "ao linear bn": _chain(linear(3, 4), bn(4, 1), shape=(5, 3)),
    "ao linear bn leaky relu": _chain(linear(3, 4), bn(4, 1), nn.LeakyReLU, shape=(5, 3)),
    "ao conv bn add relu": _case(lambda s, x: torch.relu(s.n(s.c(x)) + x), c=conv(3, 3, padding=1),
                                 n=bn(3)),
    "ao conv add relu bn": _case(
        lambda s, x: s.n(torch.relu(s.c(x) + x)), c=conv(3, 3, padding=1), n=bn(3), kept=1,
        reason="only a positive scale",
    ),
    "ao conv identity dropout bn": _chain(conv(), nn.Identity, nn.Dropout, bn()),
    "ao convT bn relu": _chain(lambda: nn.ConvTranspose2d(3, 4, 2, 2), bn(), nn.ReLU),
    "ao conv bn bn": _chain(conv(), bn(), bn()),
    "ao bn conv bn": _chain(bn(3), conv(), bn()),
    "ao shared bn": _case(lambda s, x: s.n(s.a(x)) + s.n(s.b(x)), a=conv(), b=conv(), n=bn()),
    "ao conv hardtanh bn": _chain(conv(), nn.ReLU6, bn(), kept=1, reason="moves no affine map"),
}  # fmt: skip

# ---------------------------------------------------------------- AIMET
for _kind, _options in itertools.product(
    ("conv2d", "conv1d", "convT2d"), ({}, {"padding": 1}, {"groups": 2}, {"groups": 4})
):
    _words = "pads with zeros" if "padding" in _options else ""
    _words = "overlap or are cut" if _kind == "convT2d" else _words
    _rank = 1 if _kind == "conv1d" else 2
    _shape = (2, 4, *(6,) * _rank)
    _what = f"{_kind} {' '.join(f'{k} {v}' for k, v in _options.items())}".strip()
    CASES[f"aimet bn {_what}"] = _chain(
        bn(4, _rank), of(_kind, 4, 8, 2, **_options), shape=_shape,
        kept=int(bool(_words)), reason=_words,
    )  # fmt: skip
    CASES[f"aimet {_what} bn"] = _chain(of(_kind, 4, 8, 2, **_options), bn(8, _rank), shape=_shape)
CASES |= {
    "aimet bn convT of one position a window": _chain(
        bn(3), lambda: nn.ConvTranspose2d(3, 4, 3, stride=3)
    ),
    "aimet conv relu bn conv": _chain(conv(bias=False), nn.ReLU, bn(), conv(4, 5, bias=False)),
    "aimet conv relu bn padded conv": _chain(
        conv(), nn.ReLU, bn(), conv(4, 5, padding=1), kept=1, reason="pads with zeros"
    ),
    "aimet conv relu bn convT": _chain(
        conv(), nn.ReLU, bn(), lambda: nn.ConvTranspose2d(4, 5, 3), kept=1, reason="overlap"
    ),
    "aimet bn linear": _chain(bn(3, 1), linear(3, 4, bias=False), shape=(5, 3)),
    "aimet bn flatten linear": _chain(bn(3), nn.Flatten, linear(108, 4)),
    "aimet bn transpose flatten linear": _case(
        lambda s, x: s.f(s.n(x).transpose(1, 2).flatten(1)), n=bn(3), f=linear(108, 4, bias=False)
    ),
    "aimet bn pool flatten linear": _chain(
        bn(3), lambda: nn.AvgPool2d(2), nn.Flatten, linear(27, 4)
    ),
    "aimet bn maxpool flatten linear": _chain(
        bn(3), lambda: nn.MaxPool2d(2), nn.Flatten, linear(27, 4), positive=True
    ),
    "aimet matmul of two activations bn": _case(
        lambda s, x: s.n(s.f(x) @ s.g(x).transpose(1, 2)), (2, 4, 5), f=linear(5, 5),
        g=linear(5, 5), n=bn(4, 1), kept=1, reason="lies between",
    ),
    "aimet conv3d bn conv3d bn": _chain(
        lambda: nn.Conv3d(3, 4, 2), bn(4, 3), nn.ReLU, lambda: nn.Conv3d(4, 5, 2), bn(5, 3),
        shape=(2, 3, 4, 4, 4),
    ),
    "aimet conv3d relu bn conv3d relu bn": _chain(
        lambda: nn.Conv3d(3, 4, 2), nn.ReLU, bn(4, 3), lambda: nn.Conv3d(4, 5, 2), nn.ReLU,
        bn(5, 3), shape=(2, 3, 4, 4, 4), kept=1, reason="only a positive scale",
    ),
    "aimet large": _case(
        lambda s, x: s.fc(s.n4(s.c4(torch.relu(s.n3(s.c3(s.n2(torch.relu(s.c2(torch.relu(
            s.n1(s.c1(x))))))))))).flatten(1)),
        (2, 3, 10, 10), c1=conv(), n1=bn(), c2=conv(4, 5), n2=bn(5), c3=conv(5, 4), n3=bn(),
        c4=conv(4, 4), n4=bn(), fc=linear(16, 3),
    ),
    "aimet two paths": _case(
        lambda s, x: s.f((torch.relu(s.n1(s.c1(x))) + s.a(s.c3(s.n2(s.c2(x))))).flatten(1)),
        c1=conv(3, 4, 2), n1=bn(), c2=conv(3, 3, padding=1), n2=bn(3), c3=conv(3, 4, 2),
        a=lambda: nn.AdaptiveAvgPool2d(5), f=linear(100, 2),
    ),
    "aimet bn alone": _chain(bn(3), kept=1, reason="input of the model"),
    "aimet bn between activations": _chain(
        nn.Tanh, bn(3), nn.Tanh, kept=1, reason="moves no affine map"
    ),
    "aimet looped": _case(
        lambda s, x: s.n(s.c(torch.relu(s.n(s.c(x))))), c=conv(3, 3, padding=1), n=bn(3)
    ),
    "aimet conv bn conv without activation": _chain(conv(), bn(), conv(4, 5)),
    "aimet bn of lists of layers": _case(
        lambda s, x: [s.n(s.a(x)), s.m(s.b(x))], a=conv(), b=conv(), n=bn(), m=bn()
    ),
}  # fmt: skip

# ---------------------------------------------------------------- TVM: FoldScaleAxis
_ONLY_SCALE: dict[str, Any] = {"positive": True, "scale_only": True}
_NHWC = (0, 3, 1, 2)


def _last(s: Any, layer: nn.Module, y: Tensor) -> Tensor:
    """A layer of images whose channels come last."""
    return layer(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


CASES |= {
    "tvm scale relu add padded conv": _case(
        lambda s, x: s.c(torch.relu(s.n(x)) + s.t), n=bn(3), t=numbers(3, 1, 1),
        c=conv(padding=1), **_ONLY_SCALE,
    ),
    "tvm scale relu add two grouped convs, channels last": _case(
        lambda s, x: _last(s, s.c, y := torch.relu(_last(s, s.n, x)) - s.t) + _last(s, s.d, y),
        (2, 6, 6, 3), n=bn(3), t=numbers(3), c=conv(3, 3, padding=1, groups=3),
        d=conv(3, 3, padding=1, groups=3), **_ONLY_SCALE,
    ),
    "tvm scale leaky relu conv beside it": _case(
        lambda s, x: s.c(F.leaky_relu(y := s.n(x), 0.1)) + y, n=bn(3), c=conv(3, 3, padding=1),
        kept=1, **_ONLY_SCALE,
    ),
    "tvm negative scale relu conv": _case(
        lambda s, x: s.c(torch.relu(s.n(x))), n=bn(3), c=conv(3, 3, padding=1), scale_only=True,
        kept=1, reason="only a positive scale",
    ),
    "tvm scale relu add read twice": _case(
        lambda s, x: s.c(y := torch.relu(s.n(x)) + s.t) + y, n=bn(3), t=numbers(3, 1, 1),
        c=conv(3, 3, padding=1), kept=1, **_ONLY_SCALE,
    ),
    "tvm negative scale padded conv": _chain(bn(3), conv(padding=1), scale_only=True),
    "tvm scale relu add linear": _case(
        lambda s, x: s.c(torch.relu(s.n(x)) + s.t), (5, 3), n=bn(3, 1), t=numbers(3),
        c=linear(3, 4, bias=False), **_ONLY_SCALE,
    ),
    "tvm conv add relu scale": _case(
        lambda s, x: s.n(torch.relu(s.c(x) + s.t)), c=conv(bias=False, padding=1),
        t=numbers(4, 1, 1), n=bn(), **_ONLY_SCALE,
    ),
    "tvm conv add relu bn": _case(
        lambda s, x: s.n(torch.relu(s.c(x) + s.t)), c=conv(bias=False), t=numbers(4, 1, 1), n=bn(),
        kept=1, reason="only a positive scale",
    ),
    "tvm two convs relu add scale": _case(
        lambda s, x: s.n(torch.relu(s.a(x)) + torch.relu(s.b(x))), a=conv(), b=conv(), n=bn(),
        **_ONLY_SCALE,
    ),
    "tvm conv add relu times a number": _case(
        lambda s, x: s.n(torch.relu(s.c(x) + s.t) * 2.0), c=conv(bias=False), t=numbers(4, 1, 1),
        n=bn(), **_ONLY_SCALE,
    ),
    "tvm one conv in three places": _case(
        lambda s, x: torch.relu(s.n(s.c(y := torch.relu(s.n(s.c(x)))))) + torch.relu(s.m(s.c(y))),
        c=conv(3, 3, padding=1), n=bn(3), m=bn(3),
    ),
    "tvm conv read beside its scale": _case(
        lambda s, x: s.n(torch.relu(y := s.c(x))) + y, c=conv(3, 3, padding=1), n=bn(3), kept=1,
        **_ONLY_SCALE,
    ),
    "tvm conv relu and conv added, scaled": _case(
        lambda s, x: s.n(torch.relu(s.a(x)) + s.b(x)), a=conv(), b=conv(), n=bn(), **_ONLY_SCALE
    ),
    "tvm conv and its own relu added, scaled": _case(
        lambda s, x: s.n(torch.relu(y := s.a(x)) + y), a=conv(), n=bn(), **_ONLY_SCALE
    ),
    "tvm conv relu negative scale": _chain(
        conv(), nn.ReLU, bn(), scale_only=True, kept=1, reason="only a positive scale"
    ),
    "tvm conv negative scale": _chain(conv(bias=False), bn(), scale_only=True),
    "tvm linear add relu scale": _case(
        lambda s, x: s.n(torch.relu(s.c(x) + s.t)), (5, 3), c=linear(3, 4, bias=False),
        t=numbers(4), n=bn(4, 1), **_ONLY_SCALE,
    ),
    "tvm scale relu add conv3d": _case(
        lambda s, x: s.c(torch.relu(s.n(x)) + s.t), (2, 3, 4, 4, 4), n=bn(3, 3),
        t=numbers(3, 1, 1, 1), c=lambda: nn.Conv3d(3, 4, 3, padding=1), **_ONLY_SCALE,
    ),
    "tvm conv3d add relu scale": _case(
        lambda s, x: s.n(torch.relu(s.c(x) + s.t)), (2, 3, 4, 4, 4),
        c=lambda: nn.Conv3d(3, 4, 3, padding=1), t=numbers(4, 1, 1, 1), n=bn(4, 3), **_ONLY_SCALE,
    ),
    "tvm conv in blocks of channels bn": _case(
        lambda s, x: s.n(s.c(x).view(2, 2, 2, 4, 4).permute(0, 1, 3, 4, 2)
                         .permute(0, 1, 4, 2, 3).reshape(2, 4, 4, 4)), c=conv(), n=bn(),
    ),
    "tvm squeeze and bn": _case(
        lambda s, x: s.n(s.c(x).mean((2, 3), keepdim=True).squeeze(3).squeeze(2)), c=conv(),
        n=bn(4, 1),
    ),
    # ------------------------------------------------------------ SimplifyInference
    "tvm conv bn along the last axis": _case(
        lambda s, x: _last(s, s.n, s.c(x).permute(0, 2, 3, 1)), c=conv(), n=bn()
    ),
    "tvm instance norm conv": _chain(
        lambda: nn.InstanceNorm2d(3, affine=True), conv(), norms="all"
    ),
    "tvm instance norm bn": _chain(
        lambda: nn.InstanceNorm2d(3, affine=True), bn(3), kept=1, reason="its own statistics"
    ),
    "tvm instance norm without affine, bn": _chain(
        lambda: nn.InstanceNorm2d(3), bn(3), kept=1, reason="its own statistics"
    ),
    "tvm tracked instance norm": _chain(
        conv(), lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    ),
    "tvm group norm conv": _chain(lambda: nn.GroupNorm(1, 3), conv(), norms="all"),
    "tvm group norm bn": _chain(lambda: nn.GroupNorm(1, 3), bn(3)),
    "tvm group norm without affine, bn": _chain(lambda: nn.GroupNorm(1, 3, affine=False), bn(3)),
    "tvm group norm padded conv": _chain(
        lambda: nn.GroupNorm(1, 3), conv(padding=1), norms="all"
    ),
    "tvm layer norm linear": _chain(
        lambda: nn.LayerNorm(5), linear(5, 4), norms="all", shape=(2, 3, 5)
    ),
    "tvm layer norm without affine, bn": _case(
        lambda s, x: s.n(F.layer_norm(x, (5,)).transpose(1, 2)), (2, 3, 5), n=bn(5, 1)
    ),
    "tvm layer norm of two axes linear": _case(
        lambda s, x: s.f(s.n(x)), (2, 3, 5), n=lambda: nn.LayerNorm((3, 5)), f=linear(5, 4),
        norms="all", kept=1,
    ),
    "tvm l2 norm bn": _case(
        lambda s, x: s.n(F.normalize(s.c(x), dim=1)), c=conv(), n=bn(), kept=1
    ),
    "tvm dropout bn": _chain(conv(), nn.Dropout2d, bn()),
}  # fmt: skip
