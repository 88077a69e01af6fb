"""One snapshot on the same few batches as every other: all five quantities."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.data import Batch
from bncheck.measuring.forward import prepared
from bncheck.measuring.instrumented import Instrumented
from bncheck.surveying.along import Along, along_gradient
from bncheck.surveying.curvature import Eigenvalue, largest_eigenvalue
from bncheck.surveying.objective import Loss, Mode, Objective, Vector, hessian_product, normalising
from bncheck.surveying.shift import LayerShift, covariate_shift

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over the batches."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """NaN of a batch is left out; all NaN where nothing is left."""
        known = sorted(value for value in values if not math.isnan(value))
        if not known:
            return cls(math.nan, math.nan, math.nan)
        return cls(statistics.median(known), known[0], known[-1])


@dataclass(frozen=True, slots=True)
class Curvature:
    """The largest eigenvalue over the batches; where it has not `settled`, it is at least this."""

    value: Spread
    settled: bool

    @property
    def rate(self) -> float | None:
        """2 / lambda, beyond which plain SGD leaves a quadratic bowl; None where none is curved."""
        return 2 / self.value.median if self.value.median > 0 else None


@dataclass(frozen=True, slots=True)
class Surface:
    """The loss around one snapshot: what the batches say together.

    `losses` are medians over the batches at the steps of `along.MULTIPLES`.
    """

    start: Spread
    low: Spread
    high: Spread
    losses: tuple[float, ...]
    l2: Spread
    relative: Spread
    cosine: Spread
    beta: Spread
    shift: tuple[LayerShift, ...]
    train: Curvature
    eval: Curvature


@dataclass(frozen=True, slots=True)
class SurveyOptions:
    """How a snapshot is looked at. `loss` None is cross entropy, or what the labels ask for."""

    eta: float
    batches: int = 8
    mode: Mode = Mode.TRAIN
    loss: Loss | None = None
    device: str = "cpu"
    tell: Callable[[], None] = field(default=lambda: None)


def survey(subject: Instrumented, batches: Sequence[Batch], options: SurveyOptions) -> Surface:
    """All quantities of the snapshot that the model holds; the model stays as it is.

    The caller's no_grad and inference mode are left. Raises BncheckError.
    """
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        return _survey(_unwrapped(subject), [_normal(batch) for batch in batches], options)


def _unwrapped(subject: Instrumented) -> Instrumented:
    """What DataParallel holds: parameters cannot be exchanged in the replicas that it makes."""
    from torch import nn

    model = subject.model
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return subject if model is subject.model else Instrumented.of(model)


def _normal(batch: Batch) -> Batch:
    """A tensor that was made in inference mode cannot be kept for a gradient; a copy can."""
    import torch
    from torch.utils import _pytree as pytree

    def copied(value: object) -> object:
        if isinstance(value, torch.Tensor) and value.is_inference():
            return value.clone()
        return value

    return replace(batch, target=pytree.tree_map(copied, batch.target))


def _survey(subject: Instrumented, batches: Sequence[Batch], options: SurveyOptions) -> Surface:
    found: list[Along] = []
    shift: tuple[LayerShift, ...] = ()
    curved: dict[Mode, list[Eigenvalue]] = {Mode.TRAIN: [], Mode.EVAL: []}
    for number, batch in enumerate(batches):
        fitted = prepared(subject.model, batch, number, options.device)
        objective = Objective(subject.model, fitted, number, options.loss)
        with normalising(subject, options.mode):
            start, gradient = objective.begin()
            found.append(along_gradient(objective, options.eta, start, gradient))
            if not number:
                shift = covariate_shift(objective, options.eta, gradient)
        for mode, known in curved.items():
            if mode is Mode.EVAL and not subject.norms:
                known.append(curved[Mode.TRAIN][-1])  # nothing normalises: the modes are one
                continue
            before = known[-1].vector if known else _start(gradient)
            with normalising(subject, mode):
                known.append(largest_eigenvalue(hessian_product(objective), before))
        options.tell()
    return _together(found, shift, curved)


def _start(gradient: Vector) -> Vector:
    """A direction of which every eigenvector has a part: the gradient, and noise of a tenth."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=generator).to(tensor)
        return drawn * (0.1 * size)

    total = sum(tensor.numel() for tensor in gradient)
    size = math.sqrt(sum(float(t.double().square().sum()) for t in gradient) / total)
    return [tensor + noise(tensor) for tensor in gradient]


def _together(
    found: Sequence[Along],
    shift: tuple[LayerShift, ...],
    curved: dict[Mode, list[Eigenvalue]],
) -> Surface:
    columns = zip(*(each.losses for each in found), strict=True)
    return Surface(
        Spread.of(each.start for each in found),
        Spread.of(min(each.losses) for each in found),
        Spread.of(max(each.losses) for each in found),
        tuple(statistics.median(column) for column in columns),
        Spread.of(each.l2 for each in found),
        Spread.of(each.relative for each in found),
        Spread.of(each.cosine for each in found),
        Spread.of(each.beta for each in found),
        shift,
        _curvature(curved[Mode.TRAIN]),
        _curvature(curved[Mode.EVAL]),
    )


def _curvature(found: Sequence[Eigenvalue]) -> Curvature:
    return Curvature(Spread.of(e.value for e in found), all(e.settled for e in found))


def refuse_unusable(eta: float, batches: int) -> None:
    """A rate and a number of batches that mean something. Raises BncheckError."""
    if not (math.isfinite(eta) and eta > 0):
        raise BncheckError(
            f"--eta {eta:g} is not a learning rate", "give that of the training, e.g. --eta 0.1"
        )
    if batches < 1:
        raise BncheckError(f"--batches {batches} leaves nothing", "give at least 1")
