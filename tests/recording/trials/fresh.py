"""Trainings that no rule was tuned on: other networks, other data, other faults."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tests.recording.trials.faulty import FAULTS, Fault, from_then_on
from tests.recording.trials.healthy import constant, cosine, one_cycle, restarts, warm_up
from tests.recording.trials.nets import NETS
from tests.recording.trials.training import Trial, digits


class Dense(nn.Module):
    """As DenseNet: each layer sees all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12 + 8 * i) for i in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(12 + 8 * i, 8, 3, padding=1) for i in range(4))
        self.last, self.head = nn.BatchNorm2d(44), nn.Linear(44, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(norm(x).relu())], 1)
        return self.head(self.last(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Excited(nn.Module):
    """Squeeze and excitation with a hard swish, eps and momentum of EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.grow = nn.Conv2d(16, 48, 1, bias=False)
        self.deep = nn.Conv2d(48, 48, 3, 2, 1, groups=48, bias=False)
        self.gate1, self.gate2 = nn.Conv2d(48, 8, 1), nn.Conv2d(8, 48, 1)
        self.shrink = nn.Conv2d(48, 24, 1, bias=False)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width, eps=1e-3, momentum=0.01) for width in (16, 48, 48, 24)
        )
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        act = nn.functional.hardswish
        x = act(self.norms[0](self.stem(x)))
        x = act(self.norms[2](self.deep(act(self.norms[1](self.grow(x))))))
        gate = self.gate2(self.gate1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.norms[3](self.shrink(x * gate))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def after_relu() -> nn.Module:
    """BatchNorm behind ReLU: many features that few images have."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.BatchNorm1d(128),
        nn.Linear(128, 128), nn.ReLU(), nn.BatchNorm1d(128), nn.Linear(128, 10),
    )  # fmt: skip


def on_pixels() -> nn.Module:
    """The input itself is normalised, pixels at the border included."""
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Tanh(),
        nn.Linear(64, 10),
    )  # fmt: skip


def temporal() -> nn.Module:
    """One-dimensional convolutions over 64 samples."""
    return nn.Sequential(
        nn.Flatten(2), nn.Conv1d(1, 16, 5, padding=4, dilation=2), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Conv1d(16, 32, 5, 2, 2), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Conv1d(32, 32, 5, 2, 2), nn.BatchNorm1d(32), nn.ReLU(),
        nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Autoencoder(nn.Module):
    """Its output is the image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ELU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ELU(),
            nn.ConvTranspose2d(32, 16, 2, 2), nn.BatchNorm2d(16), nn.ELU(),
            nn.ConvTranspose2d(16, 1, 2, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def bag() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(300), nn.Linear(300, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


NETS |= {
    "dense": Dense, "excited": Excited, "after ReLU": after_relu, "on pixels": on_pixels,
    "temporal": temporal, "autoencoder": Autoencoder, "bag": bag,
}  # fmt: skip


class Words(Trial):
    """Counts of 300 words, most of them rare (Zipf), of ten topics."""

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(10, (self.batch,), generator=self.images)
        rank = (torch.arange(300)[None] * (7 + 2 * torch.arange(10))[:, None]) % 300
        rates = 3.0 / (1.0 + rank.float())
        return torch.poisson(rates[y], generator=self.images), y


class Rebuilt(Trial):
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.model(x), x)


class Augmented(Trial):
    """Shifted, dimmed and erased at random."""

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        x, y = super().drawn(step)
        x = torch.roll(x, int(torch.randint(-1, 2, (1,), generator=self.images)), 3)
        x = x * (0.7 + 0.6 * torch.rand(len(x), 1, 1, 1, generator=self.images))
        x[:, :, :3, :3] *= (torch.rand(len(x), 1, 1, 1, generator=self.images) > 0.3).float()
        return x, y


class LongTailed(Trial):
    """Nine of ten images are of three classes."""

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        pixels, labels = digits()
        weights = torch.where(labels < 3, 9.0, 0.4)
        chosen = torch.multinomial(weights, self.batch, True, generator=self.images)
        return pixels[chosen], labels[chosen]


class Epochs(Trial):
    """Without replacement, the last batch of an epoch is what is left."""

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        pixels, labels = digits()
        each = -(-len(pixels) // self.batch)
        if (step - 1) % each == 0:
            self.memory["order"] = torch.randperm(len(pixels), generator=self.images)
        start = (step - 1) % each * self.batch
        chosen = self.memory["order"][start : start + self.batch]
        return pixels[chosen], labels[chosen]


class Varying(Trial):
    """Batches of another size each time, as packed by length."""

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        size = int(torch.randint(8, 2 * self.batch, (1,), generator=self.images))
        x, y = super().drawn(step)
        again = torch.randint(len(x), (size,), generator=self.images)
        return x[again], y[again]


class Tables(Trial):
    """Breast cancer measurements, standardised: some features have long tails."""

    @staticmethod
    @cache
    def held() -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_breast_cancer

        x, y = load_breast_cancer(return_X_y=True)
        x = (x - x.mean(0)) / x.std(0)
        return torch.from_numpy(x).float(), torch.from_numpy(y)

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        x, y = self.held()
        chosen = torch.randint(len(x), (self.batch,), generator=self.images)
        return torch.nn.functional.pad(x[chosen], (0, 34)), y[chosen]


@cache
def fresh_sound() -> dict[str, Trial]:
    return {
        "fresh: dense SGD cosine": Trial("dense", "SGD", 0.1, 64, 10, schedule=cosine, seed=31),
        "fresh: dense Adam every 1": Trial("dense", "Adam", 2e-3, 32, 1, seed=32),
        "fresh: excited AdamW one cycle": Trial("excited", "AdamW", 5e-3, 64, 20,
                                                schedule=one_cycle, seed=33),
        "fresh: excited SGD b16": Trial("excited", "SGD", 0.05, 16, 25, seed=34),
        "fresh: after ReLU Adam": Trial("after ReLU", "Adam", 2e-3, 32, 10, seed=35),
        "fresh: after ReLU Nesterov restarts": Trial("after ReLU", "Nesterov", 0.1, 64, 5,
                                                     schedule=restarts, seed=36),
        "fresh: on pixels SGD b16": Trial("on pixels", "SGD", 0.05, 16, 10, seed=37),
        "fresh: on pixels AdamW b64 every 50": Trial("on pixels", "AdamW", 2e-3, 64, 50, seed=38),
        "fresh: temporal RMSprop": Trial("temporal", "RMSprop", 1e-3, 32, 20, seed=39),
        "fresh: temporal Nesterov warm-up": Trial("temporal", "Nesterov", 0.1, 64, 10,
                                                  schedule=warm_up, seed=40),
        "fresh: autoencoder Adam": Rebuilt("autoencoder", "Adam", 3e-3, 32, 20, seed=41),
        "fresh: autoencoder SGD restarts": Rebuilt("autoencoder", "SGD", 0.2, 64, 10,
                                                   schedule=restarts, seed=42),
        "fresh: words Adam": Words("bag", "Adam", 2e-3, 64, 10, seed=43),
        "fresh: words SGD b16": Words("bag", "SGD", 0.05, 16, 20, seed=44),
        "fresh: words AdamW b256 every 5": Words("bag", "AdamW", 2e-3, 256, 5, seed=45),
        "fresh: augmented conv": Augmented("conv", "SGD", 0.05, 64, 10, seed=46),
        "fresh: augmented dense": Augmented("dense", "AdamW", 2e-3, 32, 5, seed=47),
        "fresh: long-tailed ResNet": LongTailed("ResNet", "Adam", 2e-3, 16, 10, seed=48),
        "fresh: long-tailed on pixels": LongTailed("on pixels", "SGD", 0.05, 32, 20, seed=49),
        "fresh: epochs temporal": Epochs("temporal", "Adam", 2e-3, 100, 9, seed=50),
        "fresh: epochs after ReLU": Epochs("after ReLU", "SGD", 0.1, 64, 11, seed=51),
        "fresh: batches of 8 to 64, conv": Varying("conv", "Adam", 2e-3, 32, 10, seed=52),
        "fresh: batches of 8 to 64, dense": Varying("dense", "SGD", 0.05, 32, 20, seed=53),
        "fresh: tables MLP": Tables("MLP", "Adam", 2e-3, 32, 10, seed=54),
        "fresh: tables after ReLU b8": Tables("after ReLU", "SGD", 0.02, 8, 20, seed=55),
        "fresh: high rate dense": Trial("dense", "SGD", 0.6, 64, 20, schedule=one_cycle, seed=56),
    }  # fmt: skip


#: Besides those of `FAULTS`: changes of images in another way.
CHANGES: dict[str, Callable[[Trial], Any]] = {
    "half the contrast": from_then_on(lambda x: 0.5 * x),
    "brighter by 1": from_then_on(lambda x: x + 1),
    "salt and pepper": from_then_on(
        lambda x: torch.where(torch.rand_like(x) < 0.25, torch.sign(torch.randn_like(x)) * 4, x)
    ),
    "inverted": from_then_on(lambda x: -x),
}


@cache
def fresh_faulty() -> dict[str, tuple[Trial, Fault]]:
    """Every fault in two of the fresh networks, and the new changes in three."""
    own = ("images inverted", "validation in train()")
    faults = {word: fault for word, fault in FAULTS.items() if word not in own}
    changes = {word: Fault("BN304", plant) for word, plant in CHANGES.items()}
    nets = ("dense", "excited", "after ReLU", "on pixels", "temporal")
    rates = {"SGD": 0.05, "Adam": 2e-3, "AdamW": 2e-3, "Nesterov": 0.05}
    found: dict[str, tuple[Trial, Fault]] = {}
    turn = 0
    last = {word: FAULTS[word] for word in own[1:]}  # which came later
    for word, fault in (*faults.items(), *changes.items(), *last.items()):
        for _ in range(3 if word in changes else 2):
            net, optimizer = nets[turn % 5], list(rates)[turn % 4]
            trial = Trial(
                net, optimizer, rates[optimizer], (64, 32, 100)[turn % 3],
                (10, 20, 5, 30)[turn % 4], schedule=(constant, cosine, one_cycle)[turn % 3],
                seed=200 + turn,
            )  # fmt: skip
            trial.act = fault.plant(trial)
            found[f"fresh: {word}: {net} {optimizer} b{trial.batch} every {trial.every}"] = (
                trial, fault,
            )  # fmt: skip
            turn += 1
    return found
