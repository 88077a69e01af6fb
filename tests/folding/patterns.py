# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""The patterns of BatchNorm in real networks, each with how many of its normalisations must stay.

Values are such that luck cannot help: gammas of both signs and a zero, means far from zero, groups
with several inputs and outputs, sizes that coincide where they must not be confused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

IMAGE = (3, 9, 9)


@dataclass(frozen=True)
class Pattern:
    """A network, one sample's shape, and what folding must leave; `reason` is part of its words."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE
    kept: int = 0
    reason: str = ""
    dtype: torch.dtype = torch.float32
    merged: int = 0


class Fn(nn.Module):
    """A network from parts and a function of them."""

    def __init__(self, run: Callable[..., object], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and statistics: negative gammas and one of zero, no mean near zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "weight", None) is not None and hasattr(module, "eps"):
                module.weight.normal_(0, 1, generator=generator).add_(0.3)
                if module.weight.numel() > 2:
                    module.weight[1] = 0.0
                    module.weight[2] = -0.7
                module.bias.normal_(0.4, 1, generator=generator)
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.running_mean.normal_(0.5, 1, generator=generator)
                module.running_var.uniform_(0.3, 2.5, generator=generator)
    return model.eval()


def positive(model: nn.Module) -> nn.Module:
    for module in randomised(model).modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.abs_().add_(0.1)
    return model


def shiftless(model: nn.Module) -> nn.Module:
    """beta = mean * gamma / sqrt(var + eps) = 0."""
    for module in randomised(model).modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            module.running_mean.zero_()
            module.bias.data.zero_()
    return model


def chain(*parts: nn.Module) -> Callable[[], nn.Module]:
    return lambda: randomised(nn.Sequential(*copy.deepcopy(parts)))


def net(run: Callable[..., object], **parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: randomised(Fn(run, **{name: part() for name, part in parts.items()}))


def conv(i: int = 3, o: int = 6, k: int = 3, **options: object) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(i, o, k, **options)  # type: ignore[arg-type]


def bn(channels: int = 6, **options: object) -> Callable[[], nn.Module]:
    return lambda: nn.BatchNorm2d(channels, **options)  # type: ignore[arg-type]


class FrozenBN(nn.Module):
    """As in detectron2 and torchvision."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean"):
            self.register_buffer(name, torch.randn(channels))
        self.register_buffer("running_var", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        w, b, v, m = (
            getattr(self, n).reshape(1, -1, 1, 1)
            for n in ("weight", "bias", "running_var", "running_mean")
        )
        scale = w * (v + 1e-5).rsqrt()
        return x * scale + (b - m * scale)


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a BatchNorm with an activation inside."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
        )
        return F.silu(y)


class OddConv(nn.Conv2d):
    """A subclass whose forward is another."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x)) * 2


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        if y.sum() > 0:
            return y
        return -y


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    model[0].register_forward_hook(lambda _m, _i, out: F.relu(out))
    return randomised(model)


def _tied() -> nn.Module:
    model = Fn(
        lambda s, x: s.bn(s.a(x)) + s.b(x),
        a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(6),
    )  # fmt: skip
    model.b.weight = model.a.weight  # type: ignore[union-attr]
    return randomised(model)


def _in_train(whole: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = randomised(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)))
        (model if whole else model[1]).train()
        return model

    return build


def _ill() -> nn.Module:
    model = randomised(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)))
    model[0].bias.data.fill_(1e4)
    model[1].running_mean.fill_(1e4)
    return model


def _overflow() -> nn.Module:
    """Every activation fits float16, gamma / sqrt(var + eps) = 1e6 does not."""
    model = Fn(lambda s, x: s.bn(s.conv(x * 1e-3)), conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(6))
    randomised(model).half()
    model.conv.bias.data.zero_()  # type: ignore[union-attr]
    model.bn.running_mean.zero_()  # type: ignore[union-attr, operator]
    model.bn.running_var.zero_()  # type: ignore[union-attr, operator]
    model.bn.weight.data.fill_(10.0)  # type: ignore[union-attr]
    model.bn.eps = 1e-10  # type: ignore[assignment]
    return model


def corrupt(value: float) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = randomised(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)))
        model[1].running_var[2] = value
        return model

    return build


def _functional(aten: bool) -> Callable[[], nn.Module]:
    def run(s: nn.Module, x: Tensor) -> Tensor:
        y = s.conv(x)
        n = s.bn
        if aten:
            return torch.ops.aten.batch_norm(
                y, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, 1e-5, False
            )  # type: ignore[no-any-return]
        return F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias)

    return net(run, conv=conv(), bn=bn())


def _weight_norm_hook() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomised(
            nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6))
        )


def _parametrized(kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        wrap = getattr(nn.utils.parametrizations, kind)
        return randomised(nn.Sequential(wrap(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6)))

    return build


def _constant() -> nn.Module:
    model = Fn(
        lambda s, x: s.bn(s.conv(x) + s.offset), conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(6)
    )
    model.register_buffer("offset", torch.randn(1, 6, 1, 1))
    return randomised(model)


def _mul_add() -> nn.Module:
    model = Fn(lambda s, x: s.conv(x) * s.a + s.b, conv=nn.Conv2d(3, 6, 3))
    model.register_buffer("a", torch.randn(6, 1, 1))
    model.register_buffer("b", torch.randn(6, 1, 1))
    return model.eval()


def _half(model: nn.Module) -> Callable[[], nn.Module]:
    return lambda: randomised(copy.deepcopy(model)).half()


def _mixed() -> nn.Module:
    model = Fn(
        lambda s, x: s.bn(s.conv(x.half()).float()), conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(6)
    )
    model.conv.half()  # type: ignore[operator]
    return randomised(model)


_T = nn.ConvTranspose2d
_ZERO_PAD = "pads with zeros"

PATTERNS: dict[str, Pattern] = {
    "conv1d_bn": Pattern(chain(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)), (3, 11)),
    "conv2d_bn": Pattern(chain(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))),
    "conv2d_nobias_bn": Pattern(chain(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6))),
    "conv2d_grouped_bn": Pattern(chain(nn.Conv2d(6, 9, 3, groups=3), nn.BatchNorm2d(9)), (6, 9, 9)),
    "conv2d_depthwise_bn": Pattern(
        chain(nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12)), (6, 9, 9)
    ),
    "shared_bn_two_convs": Pattern(
        net(lambda s, x: s.bn(s.a(x)) * s.bn(s.b(x)), a=conv(), b=conv(), bn=bn())
    ),
    "conv_bn_fp16": Pattern(
        _half(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))), dtype=torch.float16
    ),
    "ill_conditioned": Pattern(_ill),
    "conv3d_bn": Pattern(chain(nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6)), (3, 5, 5, 5)),
    "conv2d_reflect_bn": Pattern(
        chain(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6))
    ),
    "bn_momentum_none": Pattern(chain(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=None))),
    "conv_bn_bn": Pattern(chain(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6))),
    "convT1d_bn": Pattern(chain(nn.ConvTranspose1d(3, 6, 3, stride=2), nn.BatchNorm1d(6)), (3, 11)),
    "convT2d_bn": Pattern(
        chain(_T(3, 6, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(6))
    ),
    "convT2d_square_bn": Pattern(chain(_T(6, 6, 3), nn.BatchNorm2d(6)), (6, 9, 9)),
    "convT2d_grouped_bn": Pattern(chain(_T(6, 6, 3, groups=2), nn.BatchNorm2d(6)), (6, 9, 9)),
    "convT2d_depthwise_bn": Pattern(chain(_T(6, 6, 3, groups=6), nn.BatchNorm2d(6)), (6, 9, 9)),
    "convT3d_bn": Pattern(chain(nn.ConvTranspose3d(3, 6, 2), nn.BatchNorm3d(6)), (3, 4, 4, 4)),
    "convT2d_dwmult_bn": Pattern(chain(_T(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (4, 9, 9)),
    "linear_bn1d": Pattern(chain(nn.Linear(5, 7), nn.BatchNorm1d(7)), (5,)),
    "linear_nobias_bn1d": Pattern(chain(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7)), (5,)),
    "linear_bn1d_3d_coincide": Pattern(
        chain(nn.Linear(5, 7), nn.BatchNorm1d(7)), (7, 5), 1, "features"
    ),
    "linear_bn1d_3d_differ": Pattern(
        chain(nn.Linear(5, 7), nn.BatchNorm1d(4)), (4, 5), 1, "features"
    ),
    "linear_transpose_bn": Pattern(
        net(
            lambda s, x: s.bn(s.fc(x).transpose(1, 2)),
            fc=lambda: nn.Linear(5, 7),
            bn=lambda: nn.BatchNorm1d(7),
        ),
        (7, 5),
    ),
    "bn_conv_zeropad_shift0": Pattern(
        lambda: shiftless(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1)))
    ),
    "bn_conv_reflect": Pattern(
        chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"))
    ),
    "bn_conv_grouped_pad0": Pattern(
        chain(nn.BatchNorm2d(6), nn.Conv2d(6, 9, 3, groups=3)), (6, 9, 9)
    ),
    "bn_conv_depthwise_pad0": Pattern(
        chain(nn.BatchNorm2d(6), nn.Conv2d(6, 12, 3, groups=6)), (6, 9, 9)
    ),
    "bn_convT_k_eq_s": Pattern(chain(nn.BatchNorm2d(3), _T(3, 6, 2, stride=2))),
    "bn_convT_k_eq_s_grouped": Pattern(
        chain(nn.BatchNorm2d(6), _T(6, 4, 3, stride=3, groups=2)), (6, 4, 5)
    ),
    "bn_convT1d_k_eq_s": Pattern(
        chain(nn.BatchNorm1d(3), nn.ConvTranspose1d(3, 6, 3, stride=3)), (3, 7)
    ),
    "bn_convT3d_k_eq_s": Pattern(
        chain(nn.BatchNorm3d(4), nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2)), (4, 2, 3, 4)
    ),
    "bn_convT_oblong": Pattern(
        chain(nn.BatchNorm2d(4), _T(4, 6, (2, 3), stride=(2, 3), groups=2, bias=False)), (4, 5, 3)
    ),
    "bn_two_convs_pad0": Pattern(
        net(
            lambda s, x: (lambda y: s.a(y) * s.b(y))(s.bn(x)),
            a=conv(),
            b=conv(),
            bn=bn(3),
        )
    ),
    "conv_add_conv_bn": Pattern(
        net(lambda s, x: s.bn(s.a(x) + s.b(x)), a=conv(), b=conv(), bn=bn())
    ),
    "concat_bn": Pattern(
        net(
            lambda s, x: s.bn(torch.cat([s.a(x), s.b(x)], 1)),
            a=conv(3, 4),
            b=conv(3, 2),
            bn=bn(6),
        )
    ),
    "conv_avgpool_bn": Pattern(chain(nn.Conv2d(3, 6, 3), nn.AvgPool2d(2), nn.BatchNorm2d(6))),
    "conv_maxpool_bn_pos": Pattern(
        lambda: positive(
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.MaxPool2d(3, padding=1), nn.BatchNorm2d(6))
        )
    ),
    "conv_upsample_bn": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.Upsample(scale_factor=2), nn.BatchNorm2d(6))
    ),
    "conv_upsample_bilinear_bn": Pattern(
        chain(
            nn.Conv2d(3, 6, 3),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.BatchNorm2d(6),
        )
    ),
    "conv_pixelshuffle_bn": Pattern(
        chain(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.BatchNorm2d(3))
    ),
    "conv_gap_flatten_bn1d": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6))
    ),
    "instancenorm_tracked": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=True))
    ),
    "linear_bn_affine_false": Pattern(
        chain(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False)), (5,)
    ),
    "bn_conv_pad0": Pattern(chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3))),
    "bn_linear": Pattern(chain(nn.BatchNorm1d(5), nn.Linear(5, 7)), (5,)),
    "bn_conv_zeropad": Pattern(
        chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1)), kept=1, reason=_ZERO_PAD
    ),
    "bn_pad_conv_asym": Pattern(
        chain(nn.BatchNorm2d(3), nn.ZeroPad2d((1, 0, 0, 0)), nn.Conv2d(3, 6, 3)),
        kept=1,
        reason="pads with 0",
    ),
    "bn_conv_same_even": Pattern(
        chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 2, padding="same")), kept=1, reason=_ZERO_PAD
    ),
    "bn_convT": Pattern(chain(nn.BatchNorm2d(3), _T(3, 6, 3, stride=2)), kept=1, reason="overlap"),
    "bn_only": Pattern(chain(nn.BatchNorm2d(3)), kept=1, reason="input of the model"),
    "bn_relu_conv": Pattern(
        chain(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 6, 3)), kept=1, reason="relu"
    ),
    "conv_add_input_bn": Pattern(
        net(lambda s, x: s.bn(s.a(x) + x), a=conv(3, 3, padding=1), bn=bn(3)),
        kept=1,
        reason="input of the model",
    ),
    "concat_input_bn": Pattern(
        net(lambda s, x: s.bn(torch.cat([s.a(x), x], 1)), a=conv(3, 3, padding=1), bn=bn(6)),
        kept=1,
        reason="input of the model",
    ),
    "conv_avgpool_pad_bn": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.AvgPool2d(3, padding=1), nn.BatchNorm2d(6)),
        kept=1,
        reason="count_include_pad",
    ),
    "conv_avgpool_pad_uncounted_bn": Pattern(
        chain(
            nn.Conv2d(3, 6, 3),
            nn.AvgPool2d(3, padding=1, count_include_pad=False),
            nn.BatchNorm2d(6),
        )
    ),
    "conv_maxpool_bn_neg": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.BatchNorm2d(6)), kept=1, reason="negative"
    ),
    "conv_flatten_bn1d": Pattern(
        chain(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.BatchNorm1d(18)), (3, 5, 5), 1, "channels"
    ),
    "instancenorm_plain": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6)), kept=1, reason="own statistics"
    ),
    "bn_flatten_linear": Pattern(chain(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 81, 4))),
    "relu_bn_conv_pad0": Pattern(chain(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3))),
    "bn_conv_and_output": Pattern(
        net(lambda s, x: (lambda y: (y, s.a(y)))(s.bn(x)), a=conv(), bn=bn(3)),
        kept=1,
        reason="output of the model",
    ),
    "bn_bn": Pattern(chain(nn.BatchNorm2d(3), nn.BatchNorm2d(3)), kept=1, merged=1),
    "conv_second_consumer": Pattern(
        net(lambda s, x: (lambda y: s.bn(y) + torch.sigmoid(y))(s.a(x)), a=conv(), bn=bn()),
        kept=1,
        reason="also used by",
    ),
    "conv_is_output": Pattern(
        net(lambda s, x: (lambda y: (y, s.bn(y)))(s.a(x)), a=conv(), bn=bn()),
        kept=1,
        reason="also an output",
    ),
    "shared_conv_one_bn": Pattern(net(lambda s, x: s.bn(s.a(x)) * s.a(x * 2), a=conv(), bn=bn())),
    "shared_conv_two_bns": Pattern(
        net(lambda s, x: s.b(s.a(x)) * s.c(s.a(x * 2)), a=conv(), b=bn(), c=bn())
    ),
    "shared_conv_same_bn": Pattern(
        net(lambda s, x: s.b(s.a(x)) * s.b(s.a(x * 2)), a=conv(), b=bn())
    ),
    "shared_bn_standalone": Pattern(
        net(lambda s, x: s.b(s.a(x)) + s.b(torch.sigmoid(x)), a=conv(3, 3, padding=1), b=bn(3)),
        kept=1,
    ),
    "tied_weight": Pattern(_tied),
    "conv_dropout_bn": Pattern(chain(nn.Conv2d(3, 6, 3), nn.Dropout(), nn.BatchNorm2d(6))),
    "conv_identity_bn": Pattern(chain(nn.Conv2d(3, 6, 3), nn.Identity(), nn.BatchNorm2d(6))),
    "conv_addconst_bn": Pattern(_constant),
    "conv_relu_bn": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), kept=1, reason="relu"
    ),
    "conv_mul_add": Pattern(_mul_add),
    "bn_no_running_stats": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)),
        kept=1,
        reason="tracks none",
    ),
    "bn_left_in_train": Pattern(_in_train(whole=False), kept=1, reason="training mode"),
    "model_in_train": Pattern(_in_train(whole=True), kept=1, reason="training mode"),
    "bn_affine_false": Pattern(chain(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False))),
    "functional_bn": Pattern(_functional(aten=False)),
    "functional_conv_bn_aten": Pattern(_functional(aten=True)),
    "syncbn": Pattern(
        lambda: randomised(
            nn.SyncBatchNorm.convert_sync_batchnorm(
                nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
            )
        )
    ),
    "timm_bnact": Pattern(chain(nn.Conv2d(3, 6, 3), NormAct(6))),
    "frozenbn": Pattern(chain(nn.Conv2d(3, 6, 3), FrozenBN(6))),
    "frozenbn_conv": Pattern(chain(FrozenBN(3), nn.Conv2d(3, 6, 3))),
    "weight_norm_hook": Pattern(_weight_norm_hook),
    "weight_norm_param": Pattern(_parametrized("weight_norm")),
    "spectral_norm_param": Pattern(_parametrized("spectral_norm")),
    "conv_forward_hook": Pattern(_hooked, kept=1, reason="relu"),
    "conv_subclass": Pattern(chain(OddConv(3, 6, 3), nn.BatchNorm2d(6)), kept=1, reason="relu"),
    "layernorm_linear": Pattern(chain(nn.LayerNorm(5), nn.Linear(5, 7)), (5,)),
    "conv_bn_bf16": Pattern(
        lambda: randomised(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))).bfloat16(),
        dtype=torch.bfloat16,
    ),
    "conv_bn_fp64": Pattern(
        lambda: randomised(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))).double(),
        dtype=torch.float64,
    ),
    "conv16_bn32": Pattern(_mixed),
    "linear_bn_fp16": Pattern(
        _half(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))), (5,), dtype=torch.float16
    ),
    "fp16_overflow": Pattern(_overflow, kept=1, reason="largest float16", dtype=torch.float16),
}
