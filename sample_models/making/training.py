"""The trainings: one good one, and those with a fault in their recipe."""

import copy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nets import DigitNet, PlainNet
from torch import Tensor, nn

from bncheck.recording import Recorder
from making.digits import Batch, Digits, shuffled
from making.states import State, state_of

SNAPSHOT_EPOCHS = (1, 2, 4, 8, 14, 20)
EARLY_EPOCH, LAST_EPOCH = 4, 20
EMA_DECAY = 0.995
RECORD_EVERY = 80


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: SGD with momentum, and a cosine schedule down to 0."""

    momentum: float = 0.1
    batch_size: int = 32
    epochs: int = LAST_EPOCH
    max_steps: int | None = None
    lr: float = 0.05
    seed: int = 0
    plain: bool = False


@dataclass(frozen=True)
class Run:
    """What a training leaves behind."""

    net: DigitNet
    ema_weights: State
    optimizer: dict[str, Any]
    snapshots: dict[int, State]
    steps_per_epoch: int


def train(digits: Digits, recipe: Recipe, record: Path | None = None) -> Run:
    """Train a network from the start, recorded where there is a folder for that."""
    torch.manual_seed(recipe.seed)
    net = PlainNet() if recipe.plain else DigitNet(momentum=recipe.momentum)
    ema: State = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    steps_per_epoch = len(digits.train_x) // recipe.batch_size
    steps = min(recipe.epochs * steps_per_epoch, recipe.max_steps or sys.maxsize)
    optimizer = torch.optim.SGD(net.parameters(), recipe.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    snapshots = {}
    recorder = None
    if record is not None:
        recorder = Recorder(net, record, every=RECORD_EVERY, layers="all", optimizer=optimizer)
    step = 0
    for epoch in range(1, recipe.epochs + 1):
        for x, y in shuffled(digits.train_x, digits.train_y, recipe.batch_size):
            if step == steps:
                break
            loss = training_step(net, optimizer, x, y)
            average_into(ema, net)
            step += 1
            if recorder is not None:
                recorder.step(loss=loss, epoch=epoch, step=step)
            schedule.step()
        if epoch in SNAPSHOT_EPOCHS:
            snapshots[epoch] = state_of(net)
    if recorder is not None:
        recorder.close()
    return Run(net.eval(), ema, optimizer.state_dict(), snapshots, steps_per_epoch)


def recorded(digits: Digits, path: Path, *, plain: bool) -> None:
    """The good training once more, or the same without BatchNorm, with a recorder."""
    shutil.rmtree(path, ignore_errors=True)  # it would be gone on with
    train(digits, Recipe(plain=plain), path)


def training_step(net: DigitNet, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """One update; skipped when the loss is not finite, as a mixed-precision scaler does."""
    net.train()
    loss = nn.functional.cross_entropy(net(x), y)
    if not torch.isfinite(loss):
        return loss
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss


@torch.no_grad()
def average_into(ema: State, net: DigitNet) -> None:
    """Follow the weights, and only the weights, with an exponential moving average."""
    for name, weight in net.named_parameters():
        ema[name].lerp_(weight, 1 - EMA_DECAY)


@torch.no_grad()
def refresh_statistics(net: DigitNet, batches: Iterator[Batch]) -> DigitNet:
    """Let the running statistics move over some batches; the weights stay."""
    net.train()
    for x, _ in batches:
        net(x)
    return net.eval()


@dataclass(frozen=True)
class Bench:
    """What the samples are made from: the data and one good training."""

    digits: Digits
    run: Run

    def healthy(self) -> DigitNet:
        return copy.deepcopy(self.run.net)

    @cached_property
    def plain_run(self) -> Run:
        return train(self.digits, Recipe(plain=True))
