"""The model with its running statistics and with measured ones, side by side on the same batches.

This tells wrong statistics (measured ones serve better) from wrong data (they serve worse), which
no distance between the two can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.data import Batch, Batches
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.messages import Parts
from bncheck.measuring.norms import in_eval_mode, with_statistics
from bncheck.measuring.results import Comparison, Direction
from bncheck.measuring.rounds import Share, in_rounds
from bncheck.measuring.run import Metric, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Statistics = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]

#: Differences within so many standard errors are chance.
_SIGMAS = 2.0


@dataclass
class _Sums:
    """What is added up over batches; every field is a sum, so processes can add theirs."""

    samples: int = 0
    predictions: int = 0
    flips: int = 0
    right_before: int = 0
    right_after: int = 0
    gained: int = 0
    lost: int = 0
    labelled: int = 0
    loss_before: float = 0.0
    loss_after: float = 0.0
    confidence_before: float = 0.0
    confidence_after: float = 0.0
    change: float = 0.0
    size: float = 0.0
    batches: int = 0
    metric_before: float = 0.0
    metric_after: float = 0.0
    metric_gain: float = 0.0
    metric_gain_square: float = 0.0

    def packed(self) -> Parts:
        """To be sent to other processes."""
        return {name: np.array(value) for name, value in vars(self).items()}

    def add(self, packed: Parts) -> None:
        """Add another batch's sums."""
        for name, value in packed.items():
            setattr(self, name, getattr(self, name) + value.item())


def compare(subject: Instrumented, data: Batches, statistics: Statistics, run: Run) -> Comparison:
    """Run every batch with the model's statistics and with others, given by the model's names."""
    import torch

    model, metric = subject.model, run.metric

    def work(number: int, batch: Batch) -> Parts:
        sums = _Sums()
        fitted = prepared(model, batch, number, run.device)
        before = forward(model, fitted, number)
        with with_statistics(subject.norms, statistics):
            after = forward(model, fitted, number)
        _judge(sums, before, after, fitted.target, fitted.size)
        if metric is not None:
            _apply(sums, metric, before, after, fitted.target, fitted.size)
        return sums.packed()

    total = _Sums()
    share = Share(run.processes, data)
    with torch.no_grad(), in_eval_mode(model):
        for round_ in in_rounds(run.processes, share, work, "comparison"):
            for contribution in round_:
                total.add(contribution.parts)
            run.progress(int(total.samples), data.samples)
    return _comparison(total, metric is not None, run.metric_name)


def scores_of(output: Any) -> Tensor | None:
    """The class scores in a model's output: (N, classes, ...) with at least two classes."""
    import torch

    if isinstance(output, Mapping):
        output = next((output[k] for k in ("logits", "out") if k in output), None) or next(
            iter(output.values()), None
        )
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    elif hasattr(output, "logits"):
        output = output.logits
    usable = isinstance(output, torch.Tensor) and output.ndim >= 2 and output.shape[1] > 1
    return output if usable and output.is_floating_point() else None


def _judge(sums: _Sums, before: Any, after: Any, target: Tensor | None, samples: int) -> None:
    first, second = scores_of(before), scores_of(after)
    sums.samples += samples
    if first is None or second is None:
        return
    first, second = first.float(), second.float()
    finite = bool(first.isfinite().all()), bool(second.isfinite().all())
    if all(finite):
        sums.change += float((first - second).double().square().sum())
        sums.size += float(first.double().square().sum())
    old, new = first.argmax(dim=1), second.argmax(dim=1)
    sums.predictions += old.numel()
    sums.flips += int((old != new).sum())
    for name, scores in (("confidence_before", first), ("confidence_after", second)):
        top = scores.nan_to_num().softmax(dim=1).amax(dim=1).double().sum()
        setattr(sums, name, getattr(sums, name) + float(top))
    if target is None or not _are_labels(target, first):
        return
    target = target.to(first.device).long()
    was, now = old == target, new == target
    sums.labelled += target.numel()
    sums.right_before += int(was.sum())
    sums.right_after += int(now.sum())
    sums.gained += int((now & ~was).sum())
    sums.lost += int((was & ~now).sum())
    from torch.nn.functional import cross_entropy

    if all(finite):
        sums.loss_before += float(cross_entropy(first, target, reduction="sum"))
        sums.loss_after += float(cross_entropy(second, target, reduction="sum"))


def _are_labels(target: Tensor, scores: Tensor) -> bool:
    """Whole numbers, one for each prediction, that name classes."""
    if target.is_floating_point() or target.shape != scores.argmax(dim=1).shape:
        return False
    return bool((target >= 0).all()) and bool((target < scores.shape[1]).all())


def _apply(
    sums: _Sums, metric: Metric, before: Any, after: Any, target: Tensor | None, samples: int
) -> None:
    with usercode.running("--metric"):
        values = [float(metric(output, target)) for output in (before, after)]
    gain = values[1] - values[0]
    sums.batches += 1
    sums.metric_before += values[0] * samples
    sums.metric_after += values[1] * samples
    sums.metric_gain += gain
    sums.metric_gain_square += gain**2


def _comparison(sums: _Sums, has_metric: bool, metric_name: str) -> Comparison:
    if not sums.samples:
        raise BncheckError("give no samples to compare with", "check --data")
    n = sums.predictions
    both = sums.size > 0
    common: dict[str, Any] = {
        "samples": sums.samples,
        "flips": sums.flips / n if n else None,
        "confidence": (sums.confidence_before / n, sums.confidence_after / n) if n else None,
        "output_change": math.sqrt(sums.change / sums.size) if both else None,
    }
    if sums.labelled and both:
        common["loss"] = (sums.loss_before / sums.labelled, sums.loss_after / sums.labelled)
    if has_metric:
        before, after = sums.metric_before / sums.samples, sums.metric_after / sums.samples
        gain, error = _metric_gain(sums)
        common["gain"] = _sigmas(gain, error)
        return Comparison(metric_name, before, after, _direction(gain, error), **common)
    if sums.labelled:
        before, after = sums.right_before / sums.labelled, sums.right_after / sums.labelled
        gain, error = sums.gained - sums.lost, math.sqrt(sums.gained + sums.lost)
        common["gain"] = _sigmas(gain, error)
        direction = _direction(gain, error)
        return Comparison("accuracy", before, after, direction, **common)
    return Comparison(None, None, None, Direction.UNKNOWN, **common)


def _metric_gain(sums: _Sums) -> tuple[float, float]:
    """Batches are the sample: mean gain and its standard error."""
    n = sums.batches
    if n < 2:
        return sums.metric_gain, 0.0
    mean = sums.metric_gain / n
    var = max(0.0, sums.metric_gain_square / n - mean**2) / (n - 1)
    return mean, math.sqrt(var)


def _sigmas(gain: float, error: float) -> float:
    return gain / error if error > 0 else math.copysign(math.inf, gain) if gain else 0.0


def _direction(gain: float, error: float) -> Direction:
    """McNemar: of the predictions that became right or wrong, is one kind the rule?"""
    if abs(gain) <= _SIGMAS * error or gain == 0:
        return Direction.SAME
    return Direction.BETTER if gain > 0 else Direction.WORSE
