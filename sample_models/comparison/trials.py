"""The protocol, fixed before the first run, and one training of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .nets import WIDTHS, SixConv

SAMPLES = Path(__file__).resolve().parents[1]
STEPS, EVERY = 250, 10
BATCH, MOMENTUM, BASE = 32, 0.9, 0.01
SEEDS = (0, 1, 2)
#: The rates among which every network also gets its own best one.
GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TARGET = 0.90
SNAPSHOTS = (0, 10, 20, 40, 80, 160, 250)

PROTOCOL = (
    f"six 3x3 convolutions of {', '.join(map(str, WIDTHS))} channels, the mean over places, one "
    "linear layer; 1,437 digits of 8 x 8 to train on, 360 to test; SGD with momentum "
    f"{MOMENTUM}, batches of {BATCH}, {STEPS} steps, no schedule, decay or augmentation; "
    f"accuracy on the test digits in eval mode every {EVERY} steps; seeds {SEEDS[0]} to {SEEDS[-1]}"
)


@dataclass(frozen=True)
class Trial:
    """One network, its rate, its start; what a table calls it does not make it another."""

    name: str = field(compare=False)
    bn: bool
    sigmoid: bool = False
    rate: float = BASE
    he: bool = True
    seed: int = 0


#: The rows of the table: Ioffe & Szegedy's five, and what a comparison without BatchNorm needs.
ROWS = (
    Trial("plain", bn=False),
    Trial("BN", bn=True),
    Trial("BN x5", bn=True, rate=5 * BASE),
    Trial("BN x30", bn=True, rate=30 * BASE),
    Trial("BN x5 sigmoid", bn=True, sigmoid=True, rate=5 * BASE),
    Trial("plain x5", bn=False, rate=5 * BASE),
    Trial("plain x30", bn=False, rate=30 * BASE),
    Trial("plain sigmoid", bn=False, sigmoid=True),
)
NETWORKS = (
    Trial("plain", bn=False),
    Trial("BN", bn=True),
    Trial("BN sigmoid", bn=True, sigmoid=True),
    Trial("plain sigmoid", bn=False, sigmoid=True),
)


def seeded(trial: Trial) -> list[Trial]:
    """The trial with every seed."""
    return [replace(trial, seed=seed) for seed in SEEDS]


def digits(part: str) -> tuple[Tensor, Tensor]:
    """Images, standardised as they are stored, and labels of `train` or `test`."""
    with np.load(SAMPLES / f"digits-{part}.npz") as held:
        x = torch.from_numpy(held["x"].astype(np.float32)).reshape(-1, 1, 8, 8)
        return x, torch.from_numpy(held["y"].astype(np.int64))


def accuracies(trial: Trial, snapshots: Path | None = None) -> list[float]:
    """Train, and the accuracy at 0, 10, 20, ... steps; snapshots go to the folder, where given."""
    torch.set_num_threads(1)
    torch.manual_seed(trial.seed)
    x, y = digits("train")
    test = digits("test")
    net = SixConv(trial.bn, trial.sigmoid, trial.he)
    optimizer = torch.optim.SGD(net.parameters(), trial.rate, momentum=MOMENTUM)
    found = []
    for step, chosen in enumerate(islice(_batches(len(x)), STEPS + 1)):
        if snapshots is not None and step in SNAPSHOTS:
            torch.save({"step": step, "state_dict": net.state_dict()}, snapshots / f"{step:03}.pt")
        if step % EVERY == 0:
            found.append(_accuracy(net, *test))
        net.train()
        loss = nn.functional.cross_entropy(net(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return found


def _batches(samples: int) -> Iterator[Tensor]:
    """Full batches of shuffled places, epoch after epoch."""
    while True:
        order = torch.randperm(samples)
        for start in range(0, samples - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


@torch.no_grad()
def _accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """In eval mode, as deployed; a network that has diverged is right by chance."""
    return float((net.eval()(x).argmax(dim=1) == y).double().mean())


def steps_to_target(curve: list[float]) -> int | None:
    """Steps until the accuracy is 90 % for the first time."""
    return next((place * EVERY for place, value in enumerate(curve) if value >= TARGET), None)
