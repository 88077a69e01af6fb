"""`landscape`: one snapshot or several in, the loss around each out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.words import a_kind, count
from bncheck.data import Batch
from bncheck.layers.norm_layer import Assumptions
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.labels import class_labels
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.record import is_record
from bncheck.series.series import Series, read_series
from bncheck.subject.model import build_model
from bncheck.subject.setup import Measuring, in_memory, instrumented
from bncheck.surveying.measure import Surface, SurveyOptions, refuse_unusable, survey
from bncheck.surveying.objective import Loss, Mode
from bncheck.surveying.report import LandscapeReport, Place

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LandscapeOptions:
    """What a user can set. `loss` is TARGET:CALLABLE or a function of output and target; `tell` is
    called with the batches done and those there are, over all snapshots."""

    eta: float
    batches: int = 8
    mode: Mode = Mode.TRAIN
    loss: str | Loss | None = None
    order: str = "auto"
    key: str | None = None
    tell: Callable[[int, int], None] = field(default=lambda done, total: None)


def landscape(
    paths: Sequence[str | Path], options: LandscapeOptions, measuring: Measuring
) -> LandscapeReport:
    """Survey each checkpoint in one model. Raises BncheckError.

    A file that cannot be read is an error in the report, unless none is left.
    """
    refuse_unusable(options.eta, options.batches)
    loss = _loss(options.loss)
    files = [Path(path) for path in dict.fromkeys(map(str, paths))]
    _refuse_records(files)
    series = read_series(files, options.key, Assumptions(), lambda done, total: None, options.order)
    if not series.snapshots:
        raise series.errors[0]
    with_model = replace(measuring, model=_own(measuring))
    places = [Place(str(s.path), s.label, s.position) for s in series.snapshots]
    work = _Survey(options, loss, measuring, len(places))
    surfaces = []
    for place in places:
        checkpoint = open_checkpoint(Path(str(place.path)), options.key)
        surfaces.append(work.of(instrumented(with_model, checkpoint)))
    return work.report(places, surfaces, series)


def landscape_of_module(
    model: nn.Module, options: LandscapeOptions, measuring: Measuring
) -> LandscapeReport:
    """Survey a module in memory, which stays as it is. Raises BncheckError."""
    refuse_unusable(options.eta, options.batches)
    subject = in_memory(model)
    work = _Survey(options, _loss(options.loss), measuring, 1)
    return work.report([Place(None, type(model).__name__, None)], [work.of(subject)], None)


def _refuse_records(paths: Sequence[Path]) -> None:
    for path in paths:
        if is_record(path):
            raise BncheckError(
                "is a record, which holds the normalisation layers alone, and a gradient needs all "
                "weights",
                "give checkpoints of the training",
                str(path),
            )


def _own(measuring: Measuring) -> nn.Module | None:
    """The model that every snapshot is loaded into a copy of."""
    model = measuring.model
    return build_model(model, measuring.model_args) if isinstance(model, str) else model


def _loss(given: str | Loss | None) -> Loss | None:
    if not isinstance(given, str):
        return given
    found = usercode.resolve(given, "--loss")
    if not callable(found):
        raise BncheckError(
            f"--loss {given} is {a_kind(found)}, not a function",
            "name a function of the model's output and the labels that returns the loss",
        )
    return found


class _Survey:
    """The same batches for every snapshot, read once."""

    def __init__(
        self, options: LandscapeOptions, loss: Loss | None, measuring: Measuring, snapshots: int
    ) -> None:
        data = measuring.batches()
        self._batches = list(islice((batch for batch in data if batch.size), options.batches))
        if not self._batches:
            raise BncheckError("gives no samples", "check the data", data.name)
        self._options = options
        self._done, self._total = 0, snapshots * len(self._batches)
        self._how = SurveyOptions(
            options.eta, len(self._batches), options.mode, loss,
            measuring.checked_device(), self._tell,
        )  # fmt: skip
        self._normalised = False

    def of(self, subject: Instrumented) -> Surface:
        self._normalised = bool(subject.norms)
        return survey(subject, self._batches, self._how)

    def report(
        self, places: Sequence[Place], surfaces: Sequence[Surface], series: Series | None
    ) -> LandscapeReport:
        return LandscapeReport(
            tuple(places),
            tuple(surfaces),
            self._options.eta,
            self._options.mode.value,
            len(self._batches),
            max(batch.size for batch in self._batches),
            self._normalised,
            (*(series.notes if series else ()), *self._notes()),
            series.errors if series else (),
        )

    def _tell(self) -> None:
        self._done += 1
        self._options.tell(self._done, self._total)

    def _notes(self) -> list[str]:
        notes = []
        if len(self._batches) < self._options.batches:
            there, wanted = len(self._batches), self._options.batches
            notes.append(f"the data have {count(there, 'batch', 'batches')}, not {wanted}")
        if all(map(_one_class, self._batches)):
            notes.append(
                "every batch holds a single class, which no training step sees; shuffle the data"
            )
        return notes


def _one_class(batch: Batch) -> bool:
    labels = class_labels(batch.target, batch.size)
    return labels is not None and batch.size > 1 and int(labels.min()) == int(labels.max())
