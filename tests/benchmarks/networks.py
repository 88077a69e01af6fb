"""The networks that are measured, as their authors published them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.short = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Out of place, as torchvision's but for its in-place ReLUs."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.short(x))


def resnet18() -> nn.Module:
    """He et al. 2015, table 1."""
    widths = (64, 64, 128, 256, 512)
    blocks: list[nn.Module] = []
    for stage in range(1, 5):
        stride = 1 if stage == 1 else 2
        blocks += [Block(widths[stage - 1], widths[stage], stride), Block(widths[stage],
                   widths[stage], 1)]  # fmt: skip
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1)]  # fmt: skip
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*stem, *blocks, *head).eval()


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1, and the input."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        result: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return result


def resnet50() -> nn.Module:
    """53 BatchNorms and 25.6 million parameters."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            layers.append(Bottleneck(inputs, width, stride))
            inputs = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)]
    return nn.Sequential(*layers).eval()


class Dense(nn.Module):
    """1 x 1 and 3 x 3, each behind its BatchNorm; the result is joined to what came before."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 128, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(128), nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.bn2(y)))], dim=1)


def densenet121() -> nn.Module:
    """Huang et al. 2017, table 1."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64),
                               nn.ReLU(), nn.MaxPool2d(3, 2, 1)]  # fmt: skip
    channels = 64
    for blocks in (6, 12, 24, 16):
        if channels > 64:
            channels //= 2
            layers += [nn.Conv2d(2 * channels, channels, 1, bias=False), nn.AvgPool2d(2)]
        layers += [Dense(channels + 32 * block) for block in range(blocks)]
        channels += 32 * blocks
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return nn.Sequential(*layers).eval()


class Excited(nn.Module):
    """A squeeze and excitation: channels weighed by their means (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.silu(self.down(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.up(y))


class Inverted(nn.Module):
    """Expanded, depthwise, excited, projected; and the input where it fits."""

    def __init__(self, inputs: int, outputs: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = expand * inputs
        layers: list[nn.Module] = []
        if expand > 1:
            layers += [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU()]
        depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        layers += [depthwise, nn.BatchNorm2d(wide), nn.SiLU(), Excited(wide, inputs // 4)]
        layers += [nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*layers)
        self.joined = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.joined else y


def efficientnet_b0() -> nn.Module:
    """Tan and Le 2019, table 1: 49 BatchNorms, and a dropout in front of the classifier."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.SiLU()]
    inputs = 32
    for expand, outputs, blocks, stride, kernel in (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
    ):  # fmt: skip
        for block in range(blocks):
            layers.append(Inverted(inputs, outputs, expand, kernel, stride if block == 0 else 1))
            inputs = outputs
    layers += [nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.SiLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2, inplace=True),
            nn.Linear(1280, 1000)]  # fmt: skip
    return nn.Sequential(*layers, *head).eval()


def pooled() -> nn.Module:
    """No BatchNorm, 0.2 MB, and large maps that are pooled."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 48), (48, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def chain(number: int) -> nn.Module:
    """So many 1 x 1 convolutions, a BatchNorm behind each."""
    layers: list[nn.Module] = []
    for _ in range(number):
        layers += [nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def mlp() -> nn.Module:
    """Three layers of 256 with their BatchNorms, and a classifier."""
    layers: list[nn.Module] = []
    for inputs in (64, 256, 256):
        layers += [nn.Linear(inputs, 256), nn.BatchNorm1d(256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10)).eval()
