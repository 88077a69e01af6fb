"""Networks whose outputs are not logits of classes: a pitch tracker, a regression, a generator."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.diagnosis.networks import Kind, Task, digit_pixels, split

_BINS = 24


# --- data -----------------------------------------------------------------------------------------


@cache
def pitches() -> Task:
    """Tones of any pitch; the label is its bin, the network says how likely each bin is."""
    rng = np.random.default_rng(7)
    number = 2000
    place = rng.uniform(0, _BINS, number)
    pitch = 6 * 2 ** (place / 12)[:, None]
    t = np.arange(256) / 256
    phase = rng.uniform(0, 2 * np.pi, (number, 3))
    tones = [
        rng.uniform(0.3, 1, (number, 1)) * np.sin(2 * np.pi * k * pitch * t + phase[:, [k - 1]]) / k
        for k in (1, 2, 3)
    ]
    x = sum(tones) * rng.uniform(0.3, 1.5, (number, 1)) + 0.1 * rng.normal(size=(number, 256))
    task = split(Kind.SIGNAL, 0.1 * x, place.astype(int), _each_standardised, 400)
    return task.judged_by(_blurred_bins, _within_a_bin)


def _each_standardised(x: Tensor) -> Tensor:
    """Every frame by its own mean and standard deviation, as CREPE does."""
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True).clamp_min(1e-8)


def _blurred_bins(out: Tensor, y: Tensor) -> Tensor:
    bins = torch.arange(_BINS)
    target = torch.exp(-0.5 * (bins - y[:, None]) ** 2)
    return _BINS * F.binary_cross_entropy(out.clamp(1e-6, 1 - 1e-6), target)


def _within_a_bin(out: Tensor, y: Tensor) -> Tensor:
    return (out.argmax(1) - y).abs() <= 1


@cache
def friedman() -> Task:
    """A smooth function of 10 features on several scales (Friedman 1991)."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(2000, 10, noise=0.5, random_state=4)
    x = x * np.geomspace(0.2, 40, 10) + np.linspace(-5, 30, 10)
    mean, sd = torch.tensor(x.mean(0)).float(), torch.tensor(x.std(0)).float()
    task = split(Kind.VECTOR, x, np.zeros(len(x)), lambda v: (v - mean) / sd, 400)
    order = np.random.default_rng(0).permutation(len(x))
    target = torch.tensor(((y - y.mean()) / y.std())[order]).float()[:, None]
    return task.with_labels(target[400:], target[:400]).judged_by(F.mse_loss, _near)


def _near(out: Tensor, y: Tensor) -> Tensor:
    return ((out - y).abs() < 0.35)[:, 0]


@cache
def latents() -> Task:
    """Codes of digits (their principal components), and the digits, for a generator."""
    pixels, _ = digit_pixels()
    flat = pixels.reshape(len(pixels), -1)
    centred = flat - flat.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    codes = centred @ axes[:16].T
    sd = torch.tensor(codes.std(0)).float()
    task = split(Kind.LATENT, codes, np.zeros(len(codes)), lambda z: z / sd, 360)
    order = np.random.default_rng(0).permutation(len(codes))
    images = torch.tensor(pixels[order]).float()[:, None] * 2 - 1
    task = task.with_labels(images[360:], images[:360])
    return task.judged_by(F.mse_loss, _alike)


def _alike(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().flatten(1).mean(1).sqrt() < 0.24


# --- networks -------------------------------------------------------------------------------------


class Pitch(nn.Module):
    """Convolution, ReLU, BatchNorm, pooling; sigmoids, one for each bin of pitch."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 32, 33, 2), (32, 16, 17, 1), (16, 16, 9, 1), (16, 24, 9, 1))
        self.convs = nn.ModuleList(nn.Conv1d(i, o, k, s, k // 2) for i, o, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm1d(o, eps=1e-3) for _, o, _, _ in sizes)
        self.classifier = nn.Linear(24 * 8, _BINS)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool1d(norm(torch.relu(conv(x))), 2)
        return torch.sigmoid(self.classifier(x.flatten(1)))


class Generator(nn.Module):
    """Transposed convolutions as in DCGAN, tanh at the end."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, kernel, stride, padding in (
            (16, 64, 2, 1, 0),
            (64, 48, 4, 2, 1),
            (48, 32, 3, 1, 1),
        ):
            conv = nn.ConvTranspose2d(i, o, kernel, stride, padding, bias=False)
            layers += [conv, nn.BatchNorm2d(o), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(z[:, :, None, None])
        return images


class PreActivation(nn.Module):
    """Norm, ReLU, convolution, and a sum, as in ResNet v2; the first norm sees a convolution."""

    def __init__(self, size: int = 24, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, size, 3, 1, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for _ in range(2 * depth))
        self.convs = nn.ModuleList(nn.Conv2d(size, size, 3, 1, 1) for _ in range(2 * depth))
        self.last, self.head = nn.BatchNorm2d(size), nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for place in range(0, len(self.norms), 2):
            inner = self.convs[place](torch.relu(self.norms[place](x)))
            x = x + self.convs[place + 1](torch.relu(self.norms[place + 1](inner)))
            if place == 2:
                x = F.avg_pool2d(x, 2)
        logits: Tensor = self.head(torch.relu(self.last(x)).mean(dim=(2, 3)))
        return logits
