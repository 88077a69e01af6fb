"""What labels ask of a model's output: which class, yes or no, or which number.

Labels come as class numbers, one-hot or soft, for each sample or each place of a map; as 0 and 1
for single scores; as numbers to be met. -100, 255 and everything negative mean "do not count".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from bncheck.core.errors import BncheckError
from bncheck.core.words import a_kind
from bncheck.measuring.answers import scores_in, tensors_in

if TYPE_CHECKING:
    from torch import Tensor

#: The usual number for "do not count" that is not negative.
_IGNORED: Final = 255
#: Class numbers beyond the classes, as a share of all labels: more is another set of classes.
_MOST_BEYOND: Final = 0.2
#: Class means are kept for at most this many classes.
MOST_CLASSES: Final = 1000
HINT: Final = "give --metric TARGET:CALLABLE, or data without labels"


class Form(IntEnum):
    """What is asked."""

    CLASSES = 0
    YES_OR_NO = 1
    NUMBERS = 2


@dataclass(frozen=True)
class Question:
    """Scores beside what they should be; `counted` leaves out what is not to be judged.

    Shapes: scores (N, C, P) for classes, else (N, P); target and counted (N, P), P places a sample.
    """

    form: Form
    scores: Tensor
    target: Tensor
    counted: Tensor


def question(output: Any, labels: Any, samples: int, differentiable: bool = False) -> Question:
    """Labels held against the part of the output that they fit; `differentiable` with its graph.

    Raises BncheckError, with the shapes, where they fit none.
    """
    targets, scores = list(tensors_in(labels)), list(scores_in(output, differentiable))
    for target in targets:
        for candidate in scores:
            found = _fitted(candidate, target.to(candidate.device), samples)
            if found is not None:
                return found
    if not targets:
        raise BncheckError(f"the labels ({a_kind(labels)}) hold no numbers", HINT)
    if not scores:
        raise BncheckError("labels are given, and the model's output holds no scores", HINT)
    raise BncheckError(f"{_words(targets[0], 'labels')} do not fit {_words(scores[0], 'outputs')}",
                       HINT)  # fmt: skip


def class_labels(labels: Any, samples: int) -> Tensor | None:
    """The labels as one of a few classes for each sample, (N,), where that is what they are."""
    target = next(tensors_in(labels), None)
    if target is None or len(target) != samples:
        return None
    target = _squeezed(target)
    if target.ndim == 2 and _is_distribution(target):
        target = target.argmax(dim=1)
    if target.ndim != 1 or not _is_whole(target):
        return None
    return target.long() if int(target.max()) < MOST_CLASSES else None


def _fitted(scores: Tensor, target: Tensor, samples: int) -> Question | None:
    rows = scores.shape[0]
    if rows != samples and rows % max(samples, 1) == 0 and target.numel() == rows:
        scores = scores.reshape(samples, -1, *scores.shape[1:])  # tokens in one row
        scores, target = scores.movedim(1, -1), target.reshape(samples, -1)
    if scores.shape[0] != samples or target.shape[0] != samples:
        return None
    scores, target = _squeezed(scores), _squeezed(target)
    return next((found for f in _FORMS for found in f(scores, target)), None)


def _squeezed(x: Tensor) -> Tensor:
    """Without axes of length one, the samples' apart."""
    return x.reshape(x.shape[0], *(size for size in x.shape[1:] if size != 1))


def _classes(scores: Tensor, target: Tensor) -> Iterator[Question]:
    """Numbers of classes; these lie on the second axis, or on the last."""
    if scores.ndim != target.ndim + 1 or not _is_whole(target):
        return
    for axis in (1, -1):
        moved = scores.movedim(axis, 1)
        if moved.shape[:1] + moved.shape[2:] == target.shape:
            yield _of_classes(moved, target.long())


def _of_classes(scores: Tensor, target: Tensor) -> Question:
    n, classes = scores.shape[:2]
    scores, target = scores.reshape(n, classes, -1), target.reshape(n, -1)
    beyond = (target >= classes) & (target != _IGNORED)
    usual = (target >= 0) & (target < classes)
    if int(beyond.sum()) > _MOST_BEYOND * target.numel() or _from_one(target, classes):
        raise BncheckError(
            f"labels go up to {int(target[beyond].max())}, and the outputs have the classes 0 to "
            f"{classes - 1}",
            HINT,
        )
    return Question(Form.CLASSES, scores, target, usual)


def _from_one(target: Tensor, classes: int) -> bool:
    """Whether classes are counted from 1: no 0, and the last is the number of classes."""
    known = target[(target >= 0) & (target != _IGNORED)]
    enough = known.numel() >= 4 * classes
    return enough and int(known.min()) == 1 and int(known.max()) == classes


def _shares(scores: Tensor, target: Tensor) -> Iterator[Question]:
    """One-hot and soft labels: what is asked is the most likely class."""
    if scores.shape != target.shape or scores.ndim < 2 or not _is_distribution(target):
        return
    chosen = target.argmax(dim=1)
    yield _of_classes(scores, chosen)


def _yes_or_no(scores: Tensor, target: Tensor) -> Iterator[Question]:
    """0 and 1, -1 and 1, or 0 and 255 for single scores: one logit, a map, many labels a sample."""
    import torch

    if scores.shape != target.shape or not _is_whole(target):
        return
    whole = target.long().reshape(len(target), -1)
    values = set(torch.unique(whole).tolist())
    if values <= {-1, 1}:
        counted = whole != 0
    elif values <= {0, _IGNORED}:
        counted = whole >= 0
    elif {v for v in values if 0 <= v != _IGNORED} <= {0, 1}:
        counted = (whole >= 0) & (whole != _IGNORED)
    else:
        return
    yield Question(Form.YES_OR_NO, scores.reshape(len(scores), -1), whole > 0, counted)


def _numbers(scores: Tensor, target: Tensor) -> Iterator[Question]:
    """Numbers to be met; NaN stands for an unknown one."""
    if scores.shape == target.shape:
        target = target.to(scores.dtype).reshape(len(target), -1)
        yield Question(Form.NUMBERS, scores.reshape(target.shape), target, target.isfinite())


_FORMS: Final = (_classes, _shares, _yes_or_no, _numbers)


def _is_whole(target: Tensor) -> bool:
    if not target.is_floating_point():
        return True
    return bool((target == target.round()).all()) and bool(target.isfinite().all())


def _is_distribution(target: Tensor) -> bool:
    """Shares of classes on the second axis: not negative, and one in all."""
    values = target.double()
    return bool((values >= 0).all()) and bool(((values.sum(dim=1) - 1).abs() < 1e-3).all())


def _words(x: Tensor, what: str) -> str:
    return f"{what} of shape {'x'.join(map(str, x.shape))} {str(x.dtype)[6:]}"
