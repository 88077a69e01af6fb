"""Small networks of the usual kinds, and the data that each is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Kind(StrEnum):
    """What one input is: it decides how data can be prepared wrongly."""

    IMAGE = "image"
    VECTOR = "vector"
    SIGNAL = "signal"
    SEQUENCE = "sequence"
    LATENT = "latent"


def same_class(out: Tensor, y: Tensor) -> Tensor:
    """Whether the largest output is that of the label."""
    return out.argmax(1) == y


@dataclass(frozen=True)
class Task:
    """Inputs before and after preparation, labels, and a test set.

    `prepare` is what training does to raw inputs; `augment` what it does to them before. `right`
    says of every output whether it will do.
    """

    kind: Kind
    raw: Tensor
    y: Tensor
    test_raw: Tensor
    test_y: Tensor
    prepare: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor] = lambda raw: raw
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    right: Callable[[Tensor, Tensor], Tensor] = same_class

    def judged_by(
        self, loss: Callable[[Tensor, Tensor], Tensor], right: Callable[[Tensor, Tensor], Tensor]
    ) -> Task:
        """The same task with outputs that are not logits of classes."""
        return replace(self, loss=loss, right=right)

    def with_labels(self, y: Tensor, test_y: Tensor) -> Task:
        """The same inputs with other labels."""
        return replace(self, y=y, test_y=test_y)

    @property
    def x(self) -> Tensor:
        """What the network was trained on."""
        return self.prepare(self.augment(self.raw))

    @property
    def test_x(self) -> Tensor:
        """As prepared as in training."""
        return self.prepare(self.augment(self.test_raw))


def split(kind: Kind, raw: Any, y: Any, prepare: Callable[[Tensor], Tensor], test: int) -> Task:
    """A task with `test` examples set aside, in a fixed order."""
    order = np.random.default_rng(0).permutation(len(raw))
    x, labels = torch.as_tensor(raw[order], dtype=torch.float32), torch.as_tensor(y[order]).long()
    return Task(kind, x[test:], labels[test:], x[:test], labels[:test], prepare)


def scaling(mean: float, sd: float) -> Callable[[Tensor], Tensor]:
    """(x - mean) / sd."""
    return lambda x: (x - mean) / sd


# --- data -----------------------------------------------------------------------------------------


def digit_pixels() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """1797 digits, 8x8 pixels in 0..1."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16, digits.target


@cache
def digits() -> Task:
    pixels, y = digit_pixels()
    return split(Kind.IMAGE, pixels[:, None], y, scaling(0.3054, 0.3760), 360)


@cache
def segments() -> Task:
    """Each pixel's label is its digit, or 10 for the background."""
    pixels, y = digit_pixels()
    large = np.kron(pixels, np.ones((1, 2, 2)))
    dense = np.where(large > 0.4, y[:, None, None], 10)
    return split(Kind.IMAGE, large[:, None], dense, scaling(0.3054, 0.3760), 360)


@cache
def columns() -> Task:
    """A digit as a sequence of eight pixel columns; the outer ones hardly change."""
    pixels, y = digit_pixels()
    return split(Kind.SEQUENCE, pixels.transpose(0, 2, 1), y, lambda x: x, 360)


@cache
def table() -> Task:
    """30 standardised features of 569 tumours."""
    from sklearn.datasets import load_breast_cancer

    cancer = load_breast_cancer()
    mean = torch.as_tensor(cancer.data.mean(0), dtype=torch.float32)
    sd = torch.as_tensor(cancer.data.std(0), dtype=torch.float32)
    return split(Kind.VECTOR, cancer.data, cancer.target, lambda x: (x - mean) / sd, 100)


@cache
def blobs() -> Task:
    """24 features on all scales, six classes of several clusters each."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        2400, 24, n_informative=14, n_redundant=6, n_classes=6, n_clusters_per_class=2,
        class_sep=1.6, random_state=3,
    )  # fmt: skip
    x = x * np.geomspace(0.1, 50, 24) + np.linspace(-20, 60, 24)
    mean, sd = torch.tensor(x.mean(0)).float(), torch.tensor(x.std(0)).float()
    return split(Kind.VECTOR, x, y, lambda v: (v - mean) / sd, 400)


@cache
def waves() -> Task:
    """Eight kinds of sound: a pitch with its harmonics, at a random phase and loudness."""
    rng = np.random.default_rng(5)
    y = np.arange(2000) % 8
    t = np.arange(256) / 256
    pitch = (6 + 3 * y + rng.uniform(-0.5, 0.5, len(y)))[:, None]
    phase = rng.uniform(0, 2 * np.pi, (len(y), 3))
    tones = [
        np.sin(2 * np.pi * k * pitch * t + phase[:, k - 1, None]) / k ** (1 + (y % 2)[:, None])
        for k in (1, 2, 3)
    ]
    x = sum(tones) * rng.uniform(0.5, 1.5, (len(y), 1)) + 0.2 * rng.normal(size=(len(y), 256))
    return split(Kind.SIGNAL, 0.2 * x, y, scaling(0.0, 0.2), 400)


@cache
def real_and_made() -> Task:
    """Digits (1) and blurred, shuffled ones (0), for a discriminator."""
    pixels, _ = digit_pixels()
    x = torch.tensor(pixels, dtype=torch.float32)[:, None]
    mixed = (x + x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]) / 2
    made = F.avg_pool2d(F.pad(mixed, (1, 1, 1, 1), mode="replicate"), 3, 1) * 1.2
    both, y = torch.cat([x, made]), torch.cat([torch.ones(len(x)), torch.zeros(len(x))])
    return split(Kind.IMAGE, both.numpy(), y.numpy(), scaling(0.5, 0.5), 500)


@cache
def photos() -> Task:
    """2000 CIFAR images, cropped and flipped as akamaster's networks saw them."""
    from tests import planted

    raw, y = planted.cifar()
    return Task(
        Kind.IMAGE, raw[400:], y[400:], raw[:400], y[:400], planted.normalised, planted.augmented
    )


# --- networks -------------------------------------------------------------------------------------


class Mlp(nn.Sequential):
    def __init__(self, inputs: int, classes: int, widths: tuple[int, ...]) -> None:
        sizes = (inputs, *widths)
        layers: list[nn.Module] = []
        for size, width in zip(sizes, widths, strict=False):
            layers += [nn.Linear(size, width), nn.BatchNorm1d(width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(widths[-1], classes))


class Conv1d(nn.Module):
    """BatchNorm behind the activation."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 24, 31, 2), (24, 24, 9, 2), (24, 32, 9, 2), (32, 32, 5, 1))
        self.convs = nn.ModuleList(nn.Conv1d(i, o, k, s, k // 2) for i, o, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm1d(o, eps=1e-3) for _, o, _, _ in sizes)
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(torch.relu(conv(x)))
        logits: Tensor = self.head(x.mean(2))
        return logits


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions with ReLU6, as in MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*self._unit(1, 24, 3, 1)]
        for inputs, outputs, stride in ((24, 32, 1), (32, 48, 2), (48, 48, 1), (48, 64, 2)):
            layers += [*self._unit(inputs, inputs, 3, stride, inputs)]
            layers += [*self._unit(inputs, outputs, 1, 1)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64, 10)

    @staticmethod
    def _unit(i: int, o: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(o), nn.ReLU6()]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).mean(dim=(2, 3)))
        return logits


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._twice(1, 16), self._twice(16, 32)
        self.middle = self._twice(32, 32)
        self.up2, self.up1 = self._twice(64, 32), self._twice(48, 16)
        self.head = nn.Conv2d(16, 11, 1)

    @staticmethod
    def _twice(i: int, o: int) -> nn.Sequential:
        def unit(i: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 3, 1, 1), nn.BatchNorm2d(o), nn.ReLU()]

        return nn.Sequential(*unit(i), *unit(o))

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        c = self.up2(torch.cat([F.interpolate(c, scale_factor=2.0), b], 1))
        logits: Tensor = self.head(self.up1(torch.cat([F.interpolate(c, scale_factor=2.0), a], 1)))
        return logits


class TokenNorm(nn.BatchNorm1d):
    """BatchNorm over the features of tokens, (N, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Vit(nn.Module):
    def __init__(self, size: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, size, 2, 2)
        self.place = nn.Parameter(0.02 * torch.randn(1, 16, size))
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.ModuleDict()
            block["norm1"], block["norm2"] = TokenNorm(size), TokenNorm(size)
            block["attention"] = nn.MultiheadAttention(size, 4, batch_first=True)
            block["up"], block["down"] = nn.Linear(size, 64), nn.Linear(64, size)
            self.blocks.append(block)
        self.norm = TokenNorm(size)
        self.head = nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            parts: Any = block
            normed = parts["norm1"](x)
            x = x + parts["attention"](normed, normed, normed, need_weights=False)[0]
            x = x + parts["down"](F.gelu(parts["up"](parts["norm2"](x))))
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


class Lstm(nn.Module):
    """BatchNorm over the pixel columns, between two recurrent layers, and before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.lstm = TokenNorm(8), nn.LSTM(8, 32, batch_first=True)
        self.norm1, self.gru = TokenNorm(32), nn.GRU(32, 32, batch_first=True)
        self.norm2, self.hidden = TokenNorm(32), nn.Linear(32, 32)
        self.norm3, self.head = nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.lstm(self.norm0(x))[0])
        x = self.norm2(self.gru(x)[0]).mean(1)
        logits: Tensor = self.head(torch.relu(self.norm3(self.hidden(x))))
        return logits


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, 1, 1), nn.LeakyReLU(0.2)]
        for i, o, stride in ((16, 32, 2), (32, 32, 1), (32, 48, 2)):
            layers += [nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).mean(dim=(2, 3)))
        return logits
