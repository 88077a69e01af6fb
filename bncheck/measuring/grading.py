"""What a model answers, batch by batch, so that two sets of statistics can be compared later.

Of every sample a few numbers are kept: whether it is right, the loss, the prediction. They are
gathered while a cascade runs the model, so no forward is needed for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.words import count
from bncheck.data import Batch
from bncheck.measuring.answers import scores_in
from bncheck.measuring.labels import Form, Question, question
from bncheck.measuring.messages import Parts
from bncheck.measuring.run import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array: TypeAlias = NDArray[Any]

#: Numbers of an output that are kept of a sample, evenly taken.
_KEPT: Final = 1024
#: Numbers to be met that have a mean of their own each; more are taken together.
_COLUMNS: Final = 64


@dataclass
class Answers:
    """The answers of one pass. Every entry of `batches` has arrays by name; {} was left out."""

    metric: Metric | None = None
    batches: list[Parts] = field(default_factory=list)

    def parts(self, batch: Batch, output: Any) -> Parts:
        """What is kept of one batch. Raises BncheckError for labels that cannot be used."""
        kept = _outputs(output, batch.size)
        if self.metric is not None:
            with usercode.running("--metric"):
                value = float(self.metric(output, batch.target))
            if not math.isfinite(value) and _is_finite(output):
                raise BncheckError(
                    f"gave {value} for a batch of {count(batch.size, 'sample')}",
                    "let it return a number for every batch: an AUC or F1 needs samples of all "
                    "classes in each (--batch-size)",
                    "--metric",
                )
            return {**kept, "metric": np.array([value]), "samples": np.array([batch.size])}
        if batch.target is None:
            return kept
        asked = question(output, batch.target, batch.size)
        return {**kept, **_graded(asked), "form": np.array([int(asked.form)])}

    def add(self, parts: Parts) -> None:
        """The next batch's."""
        self.batches.append(parts)

    @property
    def samples(self) -> int:
        """How many were answered."""
        return sum(int(part["size"][0]) for part in self.batches if part)

    def all_of(self, name: str) -> Array | None:
        """One kind of number of all batches, one after another; None where one lacks it."""
        parts = [part for part in self.batches if part]
        if name not in _OF_SCORES:
            return _joined([part.get(name) for part in parts])
        scores = _joined([part.get("scores") for part in parts])
        if scores is not None:
            return _OF_SCORES[name](scores)
        return _joined([_of_scores(name, part) for part in parts])  # as many classes as places

    @property
    def form(self) -> Form | None:
        """What the labels ask. Raises BncheckError where batches differ."""
        found = {int(part["form"][0]) for part in self.batches if "form" in part}
        if len(found) > 1:
            raise BncheckError(
                "some batches have labels of another kind than others",
                "give --metric TARGET:CALLABLE, or data without labels",
            )
        return Form(found.pop()) if found else None


def common(one: Answers, other: Answers) -> tuple[Answers, Answers]:
    """The batches that both passes answered, in two passes over the same data."""
    pairs = [(a, b) for a, b in zip(one.batches, other.batches, strict=False) if a and b]
    return (
        Answers(one.metric, [a for a, _ in pairs]),
        Answers(other.metric, [b for _, b in pairs]),
    )


def _is_finite(output: Any) -> bool:
    """Whether the model's scores are numbers; a metric of others may well be none."""
    return all(bool(scores.isfinite().all()) for scores in scores_in(output))


def _outputs(output: Any, samples: int) -> dict[str, Array]:
    """Predictions, how sure they are, and some of the numbers themselves."""
    kept: dict[str, Array] = {"size": np.array([samples])}
    found = [scores for scores in scores_in(output) if len(scores) == samples]
    if not found:
        return kept
    scores = found[0]
    if scores.ndim == 2 and 2 <= scores.shape[1] <= _KEPT:
        return {**kept, "scores": _array(scores)}
    kept["outputs"] = _array(_some(scores.reshape(samples, -1)))
    if scores.ndim < 2 or scores.shape[1] < 2:
        return kept
    places = _some(scores.reshape(samples, scores.shape[1], -1))
    kept["predicted"] = _array(places.argmax(dim=1).int())
    sure = _confidence(places)
    if sure is not None:
        kept["confidence"] = _array(sure)
    return kept


def _joined(arrays: Sequence[Array | None]) -> Array | None:
    """One after another; None where one is missing, or its rows have another shape."""
    found = [array for array in arrays if array is not None]
    same = len({array.shape[1:] for array in found}) == 1
    return np.concatenate(found) if same and len(found) == len(arrays) else None


def _of_scores(name: str, part: Mapping[str, Array]) -> Array | None:
    """What is kept of a batch, or follows from its scores."""
    return _OF_SCORES[name](part["scores"]) if "scores" in part else part.get(name)


def _predicted(scores: Array) -> Array:
    import torch

    return _array(torch.from_numpy(scores).argmax(dim=1, keepdim=True).int())


def _sureness(scores: Array) -> Array | None:
    import torch

    sure = _confidence(torch.from_numpy(scores)[:, :, None])
    return None if sure is None else _array(sure)


#: What is computed from the scores of classes, for all batches at once, where all are kept.
_OF_SCORES: Final[Mapping[str, Callable[[Array], Array | None]]] = {
    "outputs": lambda scores: scores,
    "predicted": _predicted,
    "confidence": _sureness,
}


def _some(x: Tensor) -> Tensor:
    """At most this many positions of the last axis, evenly spaced."""
    step = -(-x.shape[-1] // _KEPT)
    return x[..., ::step]


def _confidence(scores: Tensor) -> Tensor | None:
    """The mean probability of what is predicted, (N,); None for several labels a sample.

    Sigmoids, which lie in 0..1 and do not add up to 1, have none: a softmax of them means nothing.
    """
    shares = _as_shares(scores)
    return None if shares is None else shares.amax(dim=1).double().mean(dim=1)


def _as_shares(scores: Tensor) -> Tensor | None:
    if bool((scores >= 0).all()) and bool((scores <= 1).all()):
        total = scores.sum(dim=1)
        return scores if bool(((total - 1).abs() < 1e-3).all()) else None
    return scores.nan_to_num().softmax(dim=1)


def _graded(asked: Question) -> Mapping[str, Array]:
    graders = {Form.CLASSES: _classes, Form.YES_OR_NO: _yes_or_no, Form.NUMBERS: _numbers}
    return {**graders[asked.form](asked), "counted": _array(asked.counted.sum(dim=1))}


def _classes(asked: Question) -> dict[str, Array]:
    import torch

    target = torch.where(asked.counted, asked.target, 0)
    right = (asked.scores.argmax(dim=1) == target) & asked.counted
    shares = _as_shares(asked.scores)
    if shares is asked.scores:
        logs = shares.clamp_min(1e-12).log()
    else:
        logs = asked.scores.log_softmax(dim=1)
    loss = -logs.gather(1, target[:, None])[:, 0] * asked.counted
    counts = target[asked.counted].bincount(minlength=asked.scores.shape[1])
    return {
        "right": _array(right.sum(dim=1)),
        "loss": _array(loss.double().sum(dim=1)),
        "counts": _array(counts[None]),
    }


def _yes_or_no(asked: Question) -> dict[str, Array]:
    """Both readings are kept, logits and probabilities: the whole pass tells which it is."""
    scores, target, counted = asked.scores, asked.target, asked.counted
    right = [((scores > limit) == target) & counted for limit in (0.0, 0.5)]
    within = (scores >= 0) & (scores <= 1)
    counts = target[counted].long().bincount(minlength=2)
    return {
        "counts": _array(counts[None]),
        "right": _array(right[0].sum(dim=1)),
        "right_of_probability": _array(right[1].sum(dim=1)),
        "within": _array(within.all(dim=1)),
    }


def _numbers(asked: Question) -> dict[str, Array]:
    import torch

    target = torch.where(asked.counted, asked.target, 0).double()
    missed = torch.where(asked.counted, asked.scores.double() - target, 0.0)
    counted = asked.counted
    columns = target.shape[1] if target.shape[1] <= _COLUMNS else 1
    sums = [x.reshape(-1, columns).sum(dim=0)[None] for x in (target, target.square(), counted)]
    names = ("target", "target_square", "target_count")
    return {
        "missed": _array(missed.square().sum(dim=1)),
        **{name: _array(total) for name, total in zip(names, sums, strict=True)},
    }


def _array(x: Tensor) -> Array:
    found: Array = x.cpu().numpy()
    return found
