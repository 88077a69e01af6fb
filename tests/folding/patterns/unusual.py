# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""Norms and convolutions that are written in another way, and other dtypes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.folding.patterns.building import Fn, Pattern, bn, chain, conv, net, randomised


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


class FrozenScaleFirst(FrozenBN):
    """The same sum and product with the constants first."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return shift.view(-1, 1, 1) + scale.view(-1, 1, 1) * x


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


UNUSUAL: dict[str, Pattern] = {
    "conv_bn_fp16": Pattern(
        _half(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))), dtype=torch.float16
    ),
    "ill_conditioned": Pattern(_ill),
    "bn_momentum_none": Pattern(chain(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=None))),
    "instancenorm_tracked": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=True))
    ),
    "linear_bn_affine_false": Pattern(
        chain(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False)), (5,)
    ),
    "instancenorm_plain": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6)), kept=1, reason="own statistics"
    ),
    "tied_weight": Pattern(_tied),
    "conv_addconst_bn": Pattern(_constant),
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
    "frozenbn_scale_first": Pattern(chain(nn.Conv2d(3, 6, 3), FrozenScaleFirst(6))),
    "frozenbn_scale_first_conv": Pattern(chain(FrozenScaleFirst(3), nn.Conv2d(3, 6, 3))),
    "frozenbn_conv": Pattern(chain(FrozenBN(3), nn.Conv2d(3, 6, 3))),
    "weight_norm_hook": Pattern(_weight_norm_hook),
    "weight_norm_param": Pattern(_parametrized("weight_norm")),
    "spectral_norm_param": Pattern(_parametrized("spectral_norm")),
    "conv_forward_hook": Pattern(_hooked, kept=1, reason="relu"),
    "conv_subclass": Pattern(chain(OddConv(3, 6, 3), nn.BatchNorm2d(6)), kept=1, reason="relu"),
    "layernorm_bn": Pattern(chain(nn.LayerNorm(5), nn.BatchNorm1d(5)), (5,)),
    "layernorm_plain_bn": Pattern(
        chain(nn.LayerNorm(5, elementwise_affine=False), nn.BatchNorm1d(5)), (5,)
    ),
    "layernorm_of_two_axes_bn": Pattern(chain(nn.LayerNorm([5, 5]), nn.BatchNorm1d(5)), (5, 5)),
    "layernorm_bn_of_tokens": Pattern(
        chain(nn.LayerNorm(5), nn.BatchNorm1d(5)), (5, 5), 1, "differ along other axes than the"
    ),
    "groupnorm_bn": Pattern(chain(nn.GroupNorm(2, 4), nn.BatchNorm2d(4)), (4, 7, 7)),
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
