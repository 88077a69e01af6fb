"""Networks for 8 x 8 digits, of different kinds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(),
        nn.Linear(96, 48), nn.BatchNorm1d(48), nn.GELU(), nn.Dropout(0.2),
        nn.Linear(48, 10),
    )  # fmt: skip


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


class Block(nn.Module):
    """A basic block; with `first` the norm comes before the convolution."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            y = self.conv1(self.bn1(x).relu())
            return x + self.conv2(self.bn2(y).relu())  # type: ignore[no-any-return]
        y = self.bn1(self.conv1(x)).relu()
        return (x + self.bn2(self.conv2(y))).relu()  # type: ignore[no-any-return]


def _resnet(first: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Block(16, first), Block(16, first), nn.MaxPool2d(2), Block(16, first),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def resnet() -> nn.Module:
    return _resnet(False)


def preact() -> nn.Module:
    return _resnet(True)


def separable() -> nn.Module:
    """As MobileNet: depthwise and pointwise, swish, a momentum of its own."""

    def pair(width: int, out: int) -> list[nn.Module]:
        return [
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width, momentum=0.03), nn.SiLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out, momentum=0.03), nn.SiLU(),
        ]  # fmt: skip

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16, momentum=0.03), nn.SiLU(),
        *pair(16, 32), *pair(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


class Recurrent(nn.Module):
    """A GRU over the rows, with a BatchNorm before and one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.BatchNorm1d(8), nn.BatchNorm1d(32)
        self.gru, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.before(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2)
        return self.head(self.behind(self.gru(rows)[0][:, -1]))  # type: ignore[no-any-return]


class Unet(nn.Module):
    """An encoder and a decoder with a skip, and classes from its middle."""

    def __init__(self) -> None:
        super().__init__()

        def part(width: int, out: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.LeakyReLU(0.1)
            )

        self.down1, self.down2 = part(1, 12), part(12, 24)
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.last, self.head = part(24, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x)
        y = self.up(self.down2(nn.functional.max_pool2d(skip, 2)))
        return self.head(self.last(torch.cat([skip, y], 1)).mean((2, 3)))  # type: ignore[no-any-return]


NETS = {
    "MLP": mlp, "conv": conv, "ResNet": resnet, "pre-activation": preact, "separable": separable,
    "GRU": Recurrent, "U-Net": Unet,
}  # fmt: skip
#: The first of them; `fresh` brings others.
FIRST = tuple(NETS)
