"""Architectures as people build them, with random weights and statistics, and what fold leaves.

    python -m tests.architectures [NAME...]

prints the BatchNorms before and after, those kept and why, and the parity. torchvision's own follow
where it can be imported.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import bncheck
from bncheck.folding.program.fold import FoldResult
from bncheck.folding.program.parts import PartsResult
from bncheck.reporting.documents.fold import general, groups

RGB = (2, 3, 32, 32)


def unit(
    inputs: int, outputs: int, size: int = 1, act: nn.Module | None = None, **more: Any
) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    padding = more.pop("padding", size // 2)
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, bias=False, **more)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU() if act is None else act)


class Residual(nn.Module):
    """A branch and a shortcut, added."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.branch(x) + self.shortcut(x))
        return y


class Parallel(nn.Module):
    """Branches, joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def resnet_bottleneck() -> nn.Module:
    def block(inputs: int, width: int, stride: int) -> nn.Module:
        branch = nn.Sequential(
            unit(inputs, width),
            unit(width, width, 3, stride=stride),
            unit(width, 4 * width, act=nn.Identity()),
        )
        same = inputs == 4 * width and stride == 1
        shortcut = unit(inputs, 4 * width, act=nn.Identity(), stride=stride)
        return Residual(branch, nn.Identity() if same else shortcut, nn.ReLU(inplace=True))

    stem = [unit(3, 16, 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(
        *stem, block(16, 8, 1), block(32, 8, 1), block(32, 16, 2), block(64, 16, 1), *head(64)
    )


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        small = max(4, channels // 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, small, 1), nn.ReLU(),
            nn.Conv2d(small, channels, 1), gate,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(x)
        return y


def _inverted(
    inputs: int, outputs: int, stride: int, act: Callable[[], nn.Module], squeeze: bool
) -> nn.Module:
    wide = inputs * 4
    parts = [
        unit(inputs, wide, act=act()),
        unit(wide, wide, 3, act(), groups=wide, stride=stride),
        *([Squeeze(wide, nn.Hardsigmoid())] if squeeze else []),
        unit(wide, outputs, act=nn.Identity()),
    ]
    branch = nn.Sequential(*parts)
    if inputs != outputs or stride != 1:
        return branch
    return Residual(branch, nn.Identity(), nn.Identity())


def mobilenet_v2() -> nn.Module:
    blocks = [(8, 8, 1), (8, 16, 2), (16, 16, 1)]
    return nn.Sequential(
        unit(3, 8, 3, nn.ReLU6(), stride=2),
        *(_inverted(*block, nn.ReLU6, False) for block in blocks),
        *head(16),
    )


def mobilenet_v3() -> nn.Module:
    blocks = [(8, 8, 1), (8, 16, 2), (16, 16, 1)]
    return nn.Sequential(
        unit(3, 8, 3, nn.Hardswish(), stride=2),
        *(_inverted(*block, nn.Hardswish, True) for block in blocks),
        *head(16),
    )


class DenseLayer(nn.Module):
    """Pre-activation: what came before is joined to what is new."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 16, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


def densenet() -> nn.Module:
    def transition(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        return [nn.BatchNorm2d(inputs), nn.ReLU(), conv, nn.AvgPool2d(2)]

    return nn.Sequential(
        unit(3, 16, 3), DenseLayer(16, 8), DenseLayer(24, 8), *transition(32, 16),
        DenseLayer(16, 8), DenseLayer(24, 8), nn.BatchNorm2d(32), nn.ReLU(), *head(32),
    )  # fmt: skip


def inception() -> nn.Module:
    def block(inputs: int) -> nn.Module:
        return Parallel(
            unit(inputs, 8),
            nn.Sequential(unit(inputs, 6), unit(6, 8, 5)),
            nn.Sequential(unit(inputs, 6), unit(6, 8, 3), unit(8, 8, 3)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(inputs, 8)),
        )

    return nn.Sequential(
        unit(3, 8, 3, stride=2, padding=0), block(8), nn.MaxPool2d(3, 2), block(32), *head(32)
    )


class ShuffleUnit(nn.Module):
    """Half of the channels go past, and both halves are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            unit(half, half), unit(half, half, 3, nn.Identity(), groups=half), unit(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        past, used = x.chunk(2, 1)
        y = torch.cat([past, self.branch(used)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    return nn.Sequential(unit(3, 16, 3, stride=2), ShuffleUnit(16), ShuffleUnit(16), *head(16))


def regnet() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        branch = nn.Sequential(
            unit(inputs, outputs),
            unit(outputs, outputs, 3, groups=outputs // 8, stride=stride),
            Squeeze(outputs, nn.Sigmoid()),
            unit(outputs, outputs, act=nn.Identity()),
        )
        shortcut = unit(inputs, outputs, act=nn.Identity(), stride=stride)
        return Residual(branch, shortcut if stride > 1 else nn.Identity(), nn.ReLU())

    return nn.Sequential(unit(3, 16, 3), block(16, 32, 2), block(32, 32, 1), *head(32))


def preactivation_resnet() -> nn.Module:
    def block(channels: int) -> nn.Module:
        branch = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1),
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1),
        )  # fmt: skip
        return Residual(branch, nn.Identity(), nn.Identity())

    last = [nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), block(16), block(16), *last, *head(16))


def generator() -> nn.Module:
    """A DCGAN's: latent vector to image by transposed convolutions."""
    parts: list[nn.Module] = []
    sizes = [32, 24, 16, 8]
    for inputs, outputs in itertools.pairwise(sizes):
        stride, padding = (1, 0) if inputs == 32 else (2, 1)
        conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
        parts += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())


def r3d() -> nn.Module:
    def conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        layer = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        return [layer, nn.BatchNorm3d(outputs)]

    def block(inputs: int, outputs: int) -> nn.Module:
        stride = 1 if inputs == outputs else 2
        branch = nn.Sequential(*conv(inputs, outputs, stride), nn.ReLU(), *conv(outputs, outputs))
        short = [nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs)]
        shortcut = nn.Identity() if stride == 1 else nn.Sequential(*short)
        return Residual(branch, shortcut, nn.ReLU(inplace=True))

    last = [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 5)]
    return nn.Sequential(*conv(3, 8), nn.ReLU(), block(8, 8), block(8, 16), *last)


class Encoder(nn.Module):
    """A U-Net's two levels: the skip has a second reader."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = unit(3, 8, 3), unit(8, 16, 3, stride=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Sequential(unit(16, 8, 3), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x)
        up = self.norm(self.up(self.down2(skip)))
        y: Tensor = self.last(torch.cat([skip, up], 1))
        return y


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet, bottlenecks": (resnet_bottleneck, RGB),
    "resnet, preactivated": (preactivation_resnet, RGB),
    "mobilenet v2": (mobilenet_v2, RGB),
    "mobilenet v3": (mobilenet_v3, RGB),
    "densenet": (densenet, RGB),
    "inception": (inception, RGB),
    "shufflenet": (shufflenet, RGB),
    "regnet": (regnet, RGB),
    "u-net": (Encoder, RGB),
    "generator": (generator, (2, 32, 1, 1)),
    "r3d": (r3d, (2, 3, 8, 16, 16)),
}
_TORCHVISION = {
    "resnet50": RGB, "mobilenet_v2": RGB, "mobilenet_v3_small": RGB, "efficientnet_b0": RGB,
    "densenet121": RGB, "shufflenet_v2_x1_0": RGB, "regnet_y_400mf": RGB, "mnasnet1_0": RGB,
    "inception_v3": (2, 3, 96, 96), "googlenet": (2, 3, 64, 64), "vgg11_bn": RGB,
}  # fmt: skip


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with statistics, scales and shifts as training might leave them."""
    generator_ = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator_) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.5, 2.0)
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.5, 0.5)
    return model.eval()


Result = FoldResult | PartsResult


def folded(name: str) -> Result:
    build, shape = ARCHITECTURES[name]
    torch.manual_seed(0)
    return bncheck.fold(randomised(build()), (torch.randn(shape),))


def report(name: str, result: Result) -> str:
    """One line, and one for each reason why norms stay."""
    kept = result.report.kept
    total = len(result.batchnorms)
    assert result.parity is not None
    lines = [f"{name:22} {total:4} -> {len(kept):3}   {result.parity.max_relative_error:.1e}"]
    for group in groups(kept):
        reason = general(group[0].reason)
        others = ", ..." if len(group) > 1 else ""
        lines.append(f"{'':22} {len(group):4} kept: {group[0].name}{others}: {reason}")
    return "\n".join(lines)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _torchvision(names: list[str]) -> None:
    """Its real models; the stubs are for a torchvision without its compiled operators."""
    try:
        library: Any = getattr(torch.library, "Library")("torchvision", "DEF")  # noqa: B009
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        models = importlib.import_module("torchvision.models")
    except ImportError:
        _say("torchvision cannot be imported: its models are left out")
        return
    for name, shape in _TORCHVISION.items():
        if names and name not in names:
            continue
        more = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
        model = randomised(getattr(models, name)(**more))
        _say(report(name, bncheck.fold(model, (torch.randn(shape),))))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _say(f"{'architecture':22} {'BatchNorms':11}  parity")
    for name_ in ARCHITECTURES:
        if len(sys.argv) < 2 or name_ in sys.argv[1:]:
            _say(report(name_, folded(name_)))
    _torchvision(sys.argv[1:])
