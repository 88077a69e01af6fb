"""Small models, each with something that an exporter gets wrong."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.architectures import randomised

IMAGES = torch.randn(2, 3, 8, 8)


class Unit(nn.Module):
    """Convolution, BatchNorm, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
        return scores


class Dicts(Unit):
    """Two inputs, a dict with keys like other values' names, a list in it, integers, None."""

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, object]:  # type: ignore[override]
        features = torch.relu(self.bn(self.conv(image)))
        scores = self.head(features.mean((2, 3))) * scale
        return {"logits": scores, "conv2d": [features, scores.argmax(1)], "image": None}


class HalfConv(Unit):
    """A half convolution before a float BatchNorm: torch's own export is an invalid graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.half()
        self.head.half()


class FixedBatch(Unit):
    """Its batch is written into its forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(2, -1)


class Stateful(nn.Module):
    """The batch is the first axis of its input, and the second of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.bn = nn.BatchNorm1d(8)
        self.gru = nn.GRU(8, 6, num_layers=2, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.gru(
            torch.relu(self.bn(self.conv(x))).transpose(1, 2), h
        )
        return found


class Counting(Unit):
    """Changes a buffer at every call."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class GroupsOfTheBatch(Unit):
    """A kernel for each sample: all are convolved at once, as groups."""

    def forward(self, x: Tensor) -> Tensor:
        number, _, *sizes = x.shape
        weight = self.conv.weight * x.mean((1, 2, 3)).view(-1, 1, 1, 1, 1)
        y = nn.functional.conv2d(x.view(1, -1, *sizes), weight.flatten(0, 1), groups=number)
        return torch.relu(self.bn(y.view(number, -1, *y.shape[2:])))


class Stays(nn.Module):
    """A BatchNorm behind a ReLU, with no linear layer behind it, of inputs of rank `rank`."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.bn = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[
            rank
        ](6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.bn(torch.tanh(x)))


def made(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """In eval mode, with statistics as training leaves them."""
    torch.manual_seed(seed)
    return randomised(kind(), seed)


def listing(folder: Path) -> list[str]:
    """All files, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
