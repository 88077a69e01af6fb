"""A small training on two moons, with a place for a fault, and what a recorder says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bncheck.core.findings import Finding
from bncheck.recording import Recorder

Hook = Callable[["Training", int, Tensor], Tensor | None]


def net(momentum: float = 0.1, width: int = 16) -> nn.Sequential:
    """Two hidden layers, each with BatchNorm; dropout so that the random numbers matter."""
    return nn.Sequential(
        nn.Linear(8, width),
        nn.BatchNorm1d(width, momentum=momentum),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(width, width),
        nn.BatchNorm1d(width, momentum=momentum),
        nn.ReLU(),
        nn.Linear(width, 4),
    )


def batch(generator: torch.Generator, size: int = 64) -> tuple[Tensor, Tensor]:
    """Four classes around four corners of a cube."""
    y = torch.randint(4, (size,), generator=generator)
    corners = torch.eye(4, 8) * 2
    return corners[y] + 0.5 * torch.randn(size, 8, generator=generator), y


@dataclass
class Training:
    """One training; `hook` may change the model, the optimizer, or what a step is fed."""

    model: Any = None
    lr: float = 0.05
    steps: int = 300
    seed: int = 0
    hook: Hook = lambda training, step, x: None
    found: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.model is None:
            torch.manual_seed(self.seed)
            self.model = net()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), self.lr, momentum=0.9, weight_decay=1e-4
        )

    def run(self, path: Path | None = None, **options: Any) -> Training:
        """Train, with a recorder where there is a path."""
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        recorder = None
        if path is not None:
            given = {"every": 20, "on_finding": self.found.append, **options}
            recorder = Recorder(self.model, path, optimizer=self.optimizer, **given)
        self.model.train()
        for step in range(1, self.steps + 1):
            x, y = batch(generator)
            changed = self.hook(self, step, x)
            loss = self.step(x if changed is None else changed, y)
            if recorder is not None:
                recorder.step(loss=loss)
        if recorder is not None:
            recorder.close()
        return self

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update."""
        loss = nn.functional.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @property
    def codes(self) -> set[tuple[str, str | None]]:
        """Rule and layer of everything that was found."""
        return {(finding.rule, finding.layer) for finding in self.found}

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    @rate.setter
    def rate(self, value: float) -> None:
        self.optimizer.param_groups[0]["lr"] = value
