"""Where a training was when a snapshot of a record was taken, and what its batch was like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Seen:
    """A layer's batch at a recorded step, against its running statistics; None where unknown.

    `w2` is without what `images` of a batch and the running average are off by chance. `largest`
    is the largest absolute value. `apart` is the largest W2 of one process's batch from that of all
    others together, again without noise (`apart_noise` of its square), `rank` that process.
    `training` is the layer's own mode.
    `noise` is what was taken off of W2^2; `common`, in older records, W2 where no channel counts
    for more than 0.7. `debiased` is W2 of the batch from a young average without what is left of
    its beginning; `noise` is then what was taken off of that.
    """

    w2: float | None = None
    mean_shift: float | None = None
    log_variance_ratio: float | None = None
    images: float | None = None
    largest: float | None = None
    apart: float | None = None
    rank: int | None = None
    training: bool | None = None
    common: float | None = None
    noise: float | None = None
    apart_noise: float | None = None
    debiased: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where the training was. `run` counts its starts: 0, then 1 after the first resume.

    `lr` is the highest learning rate since the snapshot before, `peak_lr` the highest before that.
    `weights` is a digest of samples of all weights, `bad_weight` the name of the first of which
    they are not finite. Since step `bad_since` no loss that was told is.
    """

    step: int | None = None
    epoch: int | None = None
    lr: float | None = None
    peak_lr: float | None = None
    loss: float | None = None
    run: int = 0
    weights: str | None = None
    bad_weight: str | None = None
    bad_since: int | None = None
    seen: Mapping[str, Seen] = field(default_factory=dict)
