"""Jumps of running statistics that the data given do not show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bncheck.core.findings import Finding
from bncheck.rules.series.bn304_late_shift import late_shift
from bncheck.series.movement import Movement


def unseen_jumps(
    buffers: Movement, measured: Movement, found: Sequence[Finding]
) -> Iterator[Finding]:
    """What the files' statistics say of jumps, and `found`, measured on one set of data, does not.

    Weights jump on any data, and statistics come back from it in the next snapshot. Where only the
    statistics do, the data of the training changed, and those that were given are of one side.
    """
    seen = {f.evidence.get("after") for f in found if late_shift.made(f)}
    for finding in late_shift.check(buffers):
        if not {finding.evidence["after"], finding.evidence["before"]} & seen:
            old = _are_old(measured, finding)
            known = "" if old is None else f", and these are the {'old' if old else 'new'} ones"
            yield replace(
                finding,
                message=f"{finding.message}, by its running statistics, and does not on the data "
                f"given: those of the training changed there{known}",
                fix="measure with the data that the training had before; look at what changed"
                if old is False
                else "measure with the data that the training went on with; look at what changed "
                "in them",
            )


def _are_old(measured: Movement, finding: Finding) -> bool | None:
    """Whether the data fit the running statistics before the jump, rather than those after it."""
    paths = [str(snapshot.path) for snapshot in measured.snapshots]
    if finding.layer not in measured.layers:
        return None
    lag = measured.lag[measured.layers.index(finding.layer)]
    before, after = (float(lag[paths.index(str(finding.evidence[k]))]) for k in ("before", "after"))
    return before < after if np.isfinite([before, after]).all() else None
