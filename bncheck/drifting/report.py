"""The report of `drift`, and how it is written as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Verdict, verdict_of
from bncheck.core.report import Report
from bncheck.series.movement import Movement

if TYPE_CHECKING:
    from bncheck.series.movement import Floats


@dataclass(frozen=True, repr=False)
class DriftReport(Report):
    """What a series of snapshots says. `errors` are those that could not be read."""

    command: ClassVar = "drift"
    asks: ClassVar = ("BN3",)

    movement: Movement
    findings: tuple[Finding, ...]
    settings: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def layer_names(self) -> Iterable[str]:
        """The layers' names."""
        return self.movement.layers

    @property
    def errors(self) -> tuple[BncheckError, ...]:
        """Snapshots that could not be read; the rest is reported."""
        return self.movement.series.errors

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the series, and what ignored rules would have said."""
        return (*self.movement.series.notes, *self.ignored)

    @property
    def verdict(self) -> str:
        """Broken (errors), suspect (warnings), moving (until the end), or settled."""
        verdict = verdict_of(self.findings)
        if verdict is not Verdict.HEALTHY:
            return verdict.value
        return "moving" if self.movement.moving else "settled"

    def rows(self) -> list[dict[str, Any]]:
        """A layer in a snapshot a row."""
        movement, grid = self.movement, self.movement.grid
        return [
            {
                "layer": layer,
                "snapshot": snapshot.label,
                "step": snapshot.position,
                "w2": grid.w2[row, column],
                "mean_shift": grid.mean_shift[row, column],
                "log_variance_ratio": grid.log_variance_ratio[row, column],
            }
            for row, layer in enumerate(movement.layers)
            for column, snapshot in enumerate(movement.snapshots)
        ]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.drift/1 of its JSON."""
        movement = self.movement
        grid, reference = movement.grid, movement.reference
        data: dict[str, object] = {
            "schema": "bncheck.drift/1",
            "bncheck": __version__,
            "snapshots": [
                {"path": str(s.path), "label": s.label, "step": s.position}
                for s in movement.snapshots
            ],
            "layers": list(movement.layers),
            "w2": _rows(grid.w2),
            "mean_shift": _rows(grid.mean_shift),
            "log_variance_ratio": _rows(grid.log_variance_ratio),
            "reference": {
                "kind": reference.kind,
                "path": None if reference.path is None else str(reference.path),
            },
            "source": movement.source.value,
            "findings": [finding.to_dict() for finding in self.findings],
            "errors": [error.to_dict() for error in self.errors],
        }
        if movement.samples is not None:
            data["data"] = {
                "samples": movement.samples,
                "noise": movement.noise,
                "lag": _rows(movement.lag),
            }
        if movement.w1 is not None:
            data["w1"] = _rows(movement.w1)
        return data


def _rows(values: Floats) -> list[list[float | None]]:
    """A list for each layer; None where nothing could be compared."""
    rows: Sequence[Sequence[float]] = values.tolist()
    return [[None if math.isnan(value) else value for value in row] for row in rows]
