# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,no-any-return,union-attr"
"""A detector as people build them: its post-processing branches on values, its parts do not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def unit(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Frozen(nn.Module):
    """torchvision's and detectron2's FrozenBatchNorm2d."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


FrozenBatchNorm2d = type("FrozenBatchNorm2d", (Frozen,), {})


class Backbone(nn.Module):
    """Two levels of features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second = unit(3, 8, 2), unit(8, 8, 2)
        self.last = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), FrozenBatchNorm2d(8))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.stem(x)
        return {"fine": fine, "coarse": self.last(self.second(fine))}


class Head(nn.Module):
    """Scores and boxes at each place of each level: its layers are called once a level."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = unit(8, 8)
        self.scores, self.boxes = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, levels: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        shared = [self.shared(level) for level in levels]
        return [(self.scores(x), self.boxes(x)) for x in shared]


class Proposals(nn.Module):
    """What a region proposal network does: it takes as many boxes as have a score."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()

    def forward(self, images: Tensor, levels: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        found = []
        results = self.head(list(levels.values()))
        for image in range(len(images)):
            scores = torch.cat([s[image].flatten() for s, _ in results])
            boxes = torch.cat([b[image].flatten(1).T for _, b in results])
            order = scores.argsort(descending=True)[:8]
            found.append((scores[order], boxes[order]))
        return found


def suppressed(scores: Tensor, boxes: Tensor) -> Tensor:
    """Non-maximum suppression in a loop."""
    kept: list[int] = []
    for place in range(len(scores)):
        if all((boxes[place] - boxes[other]).abs().sum() > 0.05 for other in kept):
            kept.append(place)
    return torch.tensor(kept)


class Detector(nn.Module):
    """Backbone, proposals, a second stage for the boxes that are left."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.proposals = Backbone(), Proposals()
        self.classes = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        levels = self.backbone(images)
        found = []
        for scores, boxes in self.proposals(images, levels):
            kept = suppressed(scores, boxes)
            if scores[kept].max() > 1e6:
                kept = kept[:1]
            found.append({"boxes": boxes[kept], "classes": self.classes(boxes[kept])})
        return found
