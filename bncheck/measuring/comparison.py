"""The model with its running statistics, with measured ones and with batch statistics.

This tells wrong statistics (measured ones serve better) from wrong data (they serve worse), which
no distance between the two can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bncheck.measuring.grading import Answers, common
from bncheck.measuring.labels import Form
from bncheck.measuring.results import ACCURACY, R2, Comparison, Direction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Differences within this many standard errors are chance.
_SIGMAS = 2.0
#: Accuracies and R2 this close are equally good: half a point.
_EQUAL = 0.005
#: In the place of the square of an error that is NaN.
_LOST = 1e30


@dataclass(frozen=True)
class _Scored:
    """A pass as one figure, and what each sample (of --metric: each batch) adds to it."""

    value: float
    each: Floats
    paired: bool  # McNemar: what differs is a count, whose variance is itself


def compare(running: Answers, measured: Answers, metric_name: str) -> Comparison:
    """The two side by side, on the batches that both answered."""
    old, new = common(running, measured)
    probability = _are_probabilities(old, new)
    before, after = (_scored(answers, probability) for answers in (old, new))
    said = Comparison(
        _metric(old, metric_name),
        before.value if before else None,
        after.value if after else None,
        Direction.UNKNOWN,
        old.samples,
        flips=_flips(old, new),
        loss=_pair(_loss(old), _loss(new)),
        confidence=_pair(_mean(old, "confidence"), _mean(new, "confidence")),
        output_change=_output_change(old, new),
    )
    if before is None or after is None:
        return said
    gain, error = _gain(before, after)
    equal = said.usual and _equal(before.value, after.value)
    return replace(
        said,
        direction=Direction.SAME if equal else _direction(gain, error),
        gain=_sigmas(gain, error),
        loss_gain=_loss_gain(old, new),
        chance=_commonest(old),
    )


def _equal(one: float, other: float) -> bool:
    """Whether neither makes half of the other's errors, and half a point is all between them."""
    low, high = sorted((one, other))
    return high - low < _EQUAL and (1 - high) * 2 > 1 - low


def _loss_gain(old: Answers, new: Answers) -> float | None:
    """What the new answers save of the loss, in standard errors of the samples' differences."""
    was, now = old.all_of("loss"), new.all_of("loss")
    if was is None or now is None or len(was) != len(now) or len(was) < 2:
        return None
    saved = was - now
    if not np.isfinite(saved).all():
        return None
    return _sigmas(float(saved.mean()), float(saved.std(ddof=1)) / math.sqrt(len(saved)))


def _commonest(answers: Answers) -> float:
    """The share of the commonest label; 0 where labels are no classes."""
    counts = answers.all_of("counts")
    if counts is None or not counts.sum():
        return 0.0
    return float(counts.sum(axis=0).max() / counts.sum())


def running_alone(running: Answers, metric_name: str) -> Comparison | None:
    """The first column, where nothing else is asked; None where there are no labels."""
    found = _scored(running, _are_probabilities(running))
    name = _metric(running, metric_name)
    if found is None:
        return None
    return Comparison(name, found.value, None, Direction.UNKNOWN, running.samples)


def value_of(answers: Answers, like: Answers) -> float | None:
    """The figure of another pass, read as that of `like` is."""
    found = _scored(answers, _are_probabilities(like))
    return None if found is None else found.value


def _metric(answers: Answers, metric_name: str) -> str | None:
    if answers.metric is not None:
        return metric_name
    form = answers.form
    return None if form is None else R2 if form is Form.NUMBERS else ACCURACY


def _are_probabilities(*passes: Answers) -> bool:
    """Whether single scores are probabilities: none is outside of 0..1."""
    found = [answers.all_of("within") for answers in passes]
    return all(within is not None and bool(within.all()) for within in found)


def _scored(answers: Answers, probability: bool) -> _Scored | None:
    if answers.metric is not None:
        return _of_metric(answers)
    form = answers.form
    if form is None:
        return None
    if form is Form.NUMBERS:
        return _of_numbers(answers)
    name = "right_of_probability" if probability and form is Form.YES_OR_NO else "right"
    right, counted = answers.all_of(name), answers.all_of("counted")
    if right is None or counted is None or not counted.sum():
        return None
    return _Scored(float(right.sum() / counted.sum()), right.astype(np.float64), True)


def _of_metric(answers: Answers) -> _Scored | None:
    values, samples = answers.all_of("metric"), answers.all_of("samples")
    if values is None or samples is None:
        return None
    value = float(values @ samples / samples.sum())
    return _Scored(value, np.nan_to_num(values, nan=-_LOST, neginf=-_LOST, posinf=_LOST), False)


def _of_numbers(answers: Answers) -> _Scored | None:
    """R2 = 1 - sum (y - f)^2 / sum (y - mean)^2, the means by column."""
    missed = answers.all_of("missed")
    names = ("target", "target_square", "target_count")
    sums = [answers.all_of(name) for name in names]
    if missed is None or any(part is None for part in sums):
        return None
    total, square, count = (np.asarray(part).sum(axis=0, dtype=np.float64) for part in sums)
    spread = float((square - total**2 / np.maximum(count, 1)).sum())
    missed = np.nan_to_num(missed, nan=_LOST)
    value = 1 - float(missed.sum()) / spread if spread > 0 else -math.inf
    return _Scored(value, -missed, False)


def _gain(before: _Scored, after: _Scored) -> tuple[float, float]:
    """The gain and its standard error; of maps, whose places err together, by image."""
    if len(before.each) != len(after.each):
        return after.value - before.value, math.inf
    gains = after.each - before.each
    if before.paired:
        return float(gains.sum()), math.sqrt(float((gains**2).sum()))
    if len(gains) < 2:
        return float(gains.sum()), 0.0
    return float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(gains))


def _flips(old: Answers, new: Answers) -> float | None:
    was, now = old.all_of("predicted"), new.all_of("predicted")
    if was is None or now is None or was.shape != now.shape or not was.size:
        return None
    return float((was != now).mean())


def _output_change(old: Answers, new: Answers) -> float | None:
    was, now = old.all_of("outputs"), new.all_of("outputs")
    if was is None or now is None or was.shape != now.shape:
        return None
    was, now = was.astype(np.float64), now.astype(np.float64)
    size = float(np.square(was).sum())
    if not (np.isfinite(size) and np.isfinite(now).all() and size > 0):
        return None
    return math.sqrt(float(np.square(was - now).sum()) / size)


def _loss(answers: Answers) -> float | None:
    loss, counted = answers.all_of("loss"), answers.all_of("counted")
    if loss is None or counted is None or not counted.sum():
        return None
    mean = float(loss.sum() / counted.sum())
    return mean if math.isfinite(mean) else None


def _mean(answers: Answers, name: str) -> float | None:
    values = answers.all_of(name)
    return None if values is None or not values.size else float(values.mean())


def _pair(one: Any, other: Any) -> tuple[float, float] | None:
    return None if one is None or other is None else (one, other)


def _sigmas(gain: float, error: float) -> float:
    return gain / error if error > 0 else math.copysign(math.inf, gain) if gain else 0.0


def _direction(gain: float, error: float) -> Direction:
    """Of the predictions that became right or wrong, is one kind the rule?"""
    if abs(gain) <= _SIGMAS * error or gain == 0:
        return Direction.SAME
    return Direction.BETTER if gain > 0 else Direction.WORSE
