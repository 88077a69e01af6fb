"""torchvision without its compiled operators: they belong to another torch."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import torch
from torch import Tensor


def stubbed_torchvision() -> Any:
    """torchvision, whose compiled operators belong to another torch; the library is kept alive."""
    library: Any = getattr(torch.library, "Library")("torchvision", "DEF")  # noqa: B009
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CPU")
    with contextlib.suppress(ImportError):
        extension: Any = importlib.import_module("torchvision.extension")
        extension._has_ops = lambda: True
    return library


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    kept: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for place in scores.argsort(descending=True).tolist():
        low = torch.maximum(boxes[place, :2], boxes[kept, :2])
        high = torch.minimum(boxes[place, 2:], boxes[kept, 2:])
        common = (high - low).clamp(min=0).prod(1)
        if not kept or bool((common / (areas[place] + areas[kept] - common) <= threshold).all()):
            kept.append(place)
    return torch.tensor(kept, dtype=torch.long)
