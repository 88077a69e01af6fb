"""Data that are not prepared as in training: the network is sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tests.diagnosis.faults import State, Subject, Truth
from tests.diagnosis.networks import Kind, Task

Change = Callable[[Task, Tensor], Tensor]
RIGHT = frozenset({"BN205", "BN208"})


def _noise(like: Tensor, scale: float) -> Tensor:
    return scale * torch.randn(like.shape, generator=torch.Generator().manual_seed(4))


#: From raw inputs, as they come before preparation.
IMAGES: dict[str, Change] = {
    "0_1": lambda task, raw: raw,
    "0_255": lambda task, raw: raw * 255,
    "half": lambda task, raw: (raw - 0.5) / 0.5,
    "inverted": lambda task, raw: task.prepare(1 - raw),
    "imagenet": lambda task, raw: (raw - 0.449) / 0.226,
    "bgr": lambda task, raw: task.prepare(raw.flip(1)),
    "dark": lambda task, raw: task.prepare(raw * 0.3),
    "noise_domain": lambda task, raw: _noise(raw, 1.0),
}
VECTORS: dict[str, Change] = {
    "raw_unstandardised": lambda task, raw: raw,
    "minmax01": lambda task, raw: _minmax(raw),
    "one_feature_x1000": lambda task, raw: _scaled_column(task.prepare(raw), 1000.0),
    "columns_rolled": lambda task, raw: task.prepare(raw).roll(1, 1),
    "columns_reversed": lambda task, raw: task.prepare(raw).flip(1),
    "sign_flipped": lambda task, raw: -task.prepare(raw),
    "missing_as_zero30pct": lambda task, raw: task.prepare(raw) * (_noise(raw, 1.0) > -0.52),
    "noise_domain": lambda task, raw: _noise(raw, 1.0),
}
SIGNALS: dict[str, Change] = {
    "dc_offset.5": lambda task, raw: task.prepare(raw) + 0.5,
    "sign_flipped": lambda task, raw: -task.prepare(raw),
    "int16_scale": lambda task, raw: raw * 32768,
    "not_normalised": lambda task, raw: raw,
    "half_rate": lambda task, raw: _slower(task.prepare(raw)),
    "reversed": lambda task, raw: task.prepare(raw).flip(1),
    "clipped": lambda task, raw: task.prepare(raw).clamp(-0.3, 0.3),
    "noise_domain": lambda task, raw: _noise(raw, 1.0),
}  # fmt: skip
SEQUENCES: dict[str, Change] = {
    "0_255": lambda task, raw: raw * 255,
    "half": lambda task, raw: (raw - 0.5) / 0.5,
    "inverted": lambda task, raw: 1 - raw,
    "transposed": lambda task, raw: raw.transpose(1, 2),
    "reversed": lambda task, raw: raw.flip(2),
    "noise_domain": lambda task, raw: _noise(raw, 1.0),
}
LATENTS: dict[str, Change] = {
    "raw_unstandardised": lambda task, raw: raw,
    "x3": lambda task, raw: task.prepare(raw) * 3,
    "moved": lambda task, raw: task.prepare(raw) + 1,
    "columns_reversed": lambda task, raw: task.prepare(raw).flip(1),
    "uniform_0_1": lambda task, raw: torch.special.ndtr(task.prepare(raw)),
}
BY_KIND = {
    Kind.IMAGE: IMAGES, Kind.VECTOR: VECTORS, Kind.SIGNAL: SIGNALS, Kind.SEQUENCE: SEQUENCES,
    Kind.LATENT: LATENTS,
}  # fmt: skip


def _slower(x: Tensor) -> Tensor:
    return F.interpolate(x[:, None], scale_factor=2.0)[:, 0, : x.shape[1]]


def _minmax(raw: Tensor) -> Tensor:
    low, high = raw.amin(0), raw.amax(0)
    return (raw - low) / (high - low).clamp_min(1e-12)


def _scaled_column(x: Tensor, factor: float) -> Tensor:
    return torch.cat([x[:, :1] * factor, x[:, 1:]], 1)


def wrong_inputs(subject: Subject) -> Iterator[State]:
    """The sound network with the data prepared otherwise."""
    task = subject.network.task()
    raw = task.augment(task.raw)[: len(subject.x)]
    for name, change in BY_KIND[task.kind].items():
        if name == "bgr" and raw.shape[1] != 3:
            continue
        if name == "half" and torch.allclose(change(task, raw), subject.x):
            continue
        yield State(
            f"in_{name}", subject.model, subject.model, change(task, raw), subject.y,
            Truth.DATA, RIGHT,
        )  # fmt: skip
