"""The report of `landscape`, and how it is written as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding
from bncheck.core.report import Report
from bncheck.surveying.along import MULTIPLES

if TYPE_CHECKING:
    from bncheck.surveying.measure import Curvature, Spread, Surface


@dataclass(frozen=True, slots=True)
class Place:
    """One snapshot: `path` and `step` are None for a module in memory, or where unknown."""

    path: str | None
    label: str
    step: int | None


@dataclass(frozen=True, repr=False)
class LandscapeReport(Report):
    """The loss around each snapshot, in their order.

    `mode` is what the BatchNorm layers normalised with, curvature apart, which is told for both.
    """

    command: ClassVar = "landscape"

    places: tuple[Place, ...]
    surfaces: tuple[Surface, ...]
    eta: float
    mode: str
    batches: int
    batch_size: int
    normalised: bool
    notes: tuple[str, ...] = ()
    errors: tuple[BncheckError, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def last(self) -> Surface:
        """The snapshot that a training would go on from."""
        return self.surfaces[-1]

    def rows(self) -> list[dict[str, Any]]:
        """The covariate shift of a layer in a snapshot a row."""
        return [
            {
                "layer": shift.layer,
                "snapshot": place.label,
                "step": place.step,
                "l2": shift.l2,
                "relative": shift.relative,
                "cosine": shift.cosine,
            }
            for place, surface in zip(self.places, self.surfaces, strict=True)
            for shift in surface.shift
        ]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.landscape/1 of its JSON.

        Quantities are lists with an entry for each snapshot: median, lowest and highest over the
        batches.
        """
        return {
            "schema": "bncheck.landscape/1",
            "bncheck": __version__,
            "snapshots": [{"path": p.path, "label": p.label, "step": p.step} for p in self.places],
            "eta": self.eta,
            "mode": self.mode,
            "batches": self.batches,
            "batch_size": self.batch_size,
            "steps": [multiple * self.eta for multiple in MULTIPLES],
            "loss": self._spreads(lambda s: s.start),
            "losses": [[_number(v) for v in s.losses] for s in self.surfaces],
            "loss_range": [{"min": _spread(s.low), "max": _spread(s.high)} for s in self.surfaces],
            "predictiveness": {
                "l2": self._spreads(lambda s: s.l2),
                "relative": self._spreads(lambda s: s.relative),
                "cosine": self._spreads(lambda s: s.cosine),
            },
            "beta": self._spreads(lambda s: s.beta),
            "ics": list(self._shifts()),
            "lambda": {
                "train": [_curvature(s.train) for s in self.surfaces],
                "eval": [_curvature(s.eval) for s in self.surfaces],
            },
            "rate": {
                "train": [s.train.rate for s in self.surfaces],
                "eval": [s.eval.rate for s in self.surfaces],
            },
            "findings": [finding.to_dict() for finding in self.findings],
            "errors": [error.to_dict() for error in self.errors],
        }

    @property
    def layers(self) -> tuple[str, ...]:
        """Every layer of which the covariate shift is known, in the order of execution."""
        return tuple(dict.fromkeys(shift.layer for s in self.surfaces for shift in s.shift))

    def _shifts(self) -> Iterable[dict[str, object]]:
        found = [{shift.layer: shift for shift in s.shift} for s in self.surfaces]
        for layer in self.layers:
            rows = [by_layer.get(layer) for by_layer in found]
            yield {
                "layer": layer,
                "l2": [None if row is None else _number(row.l2) for row in rows],
                "relative": [None if row is None else _number(row.relative) for row in rows],
                "cosine": [None if row is None else _number(row.cosine) for row in rows],
            }

    def _spreads(self, of: Callable[[Surface], Spread]) -> list[dict[str, object]]:
        return [_spread(of(surface)) for surface in self.surfaces]


def _curvature(found: Curvature) -> dict[str, object]:
    return {**_spread(found.value), "at_least": not found.settled}


def _spread(found: Spread) -> dict[str, object]:
    return {
        "median": _number(found.median), "low": _number(found.low), "high": _number(found.high)
    }  # fmt: skip


def _number(value: float) -> float | None:
    """None where nothing could be measured; infinities are written as strings by the writer."""
    return None if math.isnan(value) else value
