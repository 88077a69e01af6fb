"""One training on digits under a recorder, with a schedule and a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bncheck.core.findings import Finding
from bncheck.recording import Recorder
from tests.networks import SAMPLES
from tests.recording.trials.nets import NETS

Act = Callable[["Trial", int, Tensor], Tensor | None]

OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=5e-4),
    "Nesterov": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr),
    "AdamW": lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.05),
    "RMSprop": lambda p, lr: torch.optim.RMSprop(p, lr),
}


@cache
def digits() -> tuple[Tensor, Tensor]:
    held = np.load(SAMPLES / "digits-train.npz")
    return torch.from_numpy(held["x"]), torch.from_numpy(held["y"])


@dataclass
class Trial:
    """What is trained and how; `act` is called before each step and may replace the images."""

    net: str
    optimizer_name: str
    lr: float
    batch: int = 64
    every: int = 20
    steps: int = 400
    schedule: Callable[[float], float] = lambda done: 1.0
    act: Act = lambda trial, step, x: None
    accumulate: int = 1
    seed: int = 0
    tell_rate: bool = True
    also: Callable[[nn.Module], dict[str, Any]] = lambda model: {}
    found: list[Finding] = field(default_factory=list)
    model: Any = None

    def begin(self) -> None:
        torch.manual_seed(self.seed)
        self.model = NETS[self.net]()
        self.optimizer = self.made_optimizer()
        self.images = torch.Generator().manual_seed(self.seed)
        self.memory: dict[str, Any] = {}

    def made_optimizer(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer_name](self.model.parameters(), self.lr)

    def recorder(self, folder: Path) -> Recorder:
        return Recorder(
            self.model, folder, every=self.every, on_finding=self.found.append,
            also=self.also(self.model), optimizer=self.optimizer if self.tell_rate else None,
        )  # fmt: skip

    def run(self, folder: Path) -> Trial:
        """Train; a fault may have put another model or another recorder in place meanwhile."""
        self.begin()
        self.folder = folder
        self.recording = self.recorder(folder)
        for step in range(1, self.steps + 1):
            self.model.train()
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * self.schedule((step - 1) / self.steps)
            loss = self.update(step)
            self.recording.step(loss=loss)
        self.recording.close()
        return self

    def update(self, step: int) -> Tensor:
        for part in range(self.accumulate):
            x, y = self.drawn(step)
            if part == 0:
                changed = self.act(self, step, x)
                x = x if changed is None else changed
            loss = self.loss(x, y)
            (loss / self.accumulate).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        """A batch, with replacement."""
        pixels, labels = digits()
        chosen = torch.randint(len(pixels), (self.batch,), generator=self.images)
        return pixels[chosen], labels[chosen]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.model(x), y)

    def said(self) -> list[tuple[str, int]]:
        """Codes with the step at which each was said first."""
        first: dict[str, int] = {}
        for finding in self.found:
            first.setdefault(finding.rule, int(str(finding.evidence["step"])))
        return sorted(first.items(), key=lambda pair: pair[1])
