"""What a recalibration would do, or did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding
from bncheck.core.report import Report
from bncheck.measuring.results import Comparison

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class RecalibrationReport(Report):
    """What new statistics would do, or did; `reason` says why nothing was written.

    `forced` says why nothing would have been, where the user insisted.

    `unmeasured` are layers that were left as they were, with the reason.
    `also_changed` are tensors of other parts of the file that share their bytes with the new ones,
    `tensors` the names of the layers' tensors by role.
    """

    command: ClassVar = "recalibrate"

    layers: tuple[str, ...]
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    statistics: Mapping[str, tuple[Floats, Floats]]
    counters: Mapping[str, int]
    unreached: tuple[str, ...] = ()
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    comparison: Comparison | None = None
    samples: int | None = None
    method: str = "data"
    findings: tuple[Finding, ...] = ()
    path: Path | None = None
    written: Path | None = None
    also_changed: tuple[str, ...] = ()
    reason: str | None = None
    forced: str | None = None
    prefix: str = ""
    buffers: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    tensors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Tensor]:
        """The new buffers by their names in the model; load them with strict=False.

        Raises BncheckError where they would make the model worse.
        """
        if self.reason is not None:
            raise BncheckError(f"was not recalibrated: {self.reason}", "see .findings")
        return dict(self.buffers)

    def rows(self) -> list[dict[str, Any]]:
        """A layer a row: its W2 before and after."""
        return [
            {"name": n, "before": self.before.get(n), "after": self.after.get(n)}
            for n in self.layers
        ]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.recalibrate/1 of its JSON."""
        c = self.comparison
        metric = None if c is None or c.metric is None else c
        return {
            "schema": "bncheck.recalibrate/1",
            "bncheck": __version__,
            "checkpoint": {"path": None if self.path is None else str(self.path)},
            "method": self.method,
            "samples": self.samples,
            "before": [{"name": n, "w2": self.before.get(n)} for n in self.layers],
            "after": [{"name": n, "w2": self.after.get(n)} for n in self.layers],
            "not_reached": list(self.unreached),
            "not_measured": [{"name": n, "reason": why} for n, why in self.unmeasured.items()],
            "metric": None
            if metric is None
            else {"name": metric.metric, "before": metric.before, "after": metric.after},
            "flips": None if c is None else c.flips,
            "findings": [finding.to_dict() for finding in self.findings],
            "written": None if self.written is None else str(self.written),
            "also_changed": list(self.also_changed),
            "reason": self.reason,
            "forced": self.forced,
        }
