"""Jumps of running statistics that the data given do not show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bncheck.core.findings import Finding
from bncheck.rules.series.bn304_late_shift import late_shift
from bncheck.series.movement import Movement


def unseen_jumps(buffers: Movement, found: Sequence[Finding]) -> Iterator[Finding]:
    """What the files' statistics say of jumps, and `found`, measured on one set of data, does not.

    Weights jump on any data. Where only the statistics do, the data of the training changed, and
    those that were given are not the new ones.
    """
    seen = {f.evidence.get("after") for f in found if late_shift.made(f)}
    for finding in late_shift.check(buffers):
        if finding.evidence["after"] not in seen:
            yield replace(
                finding,
                message=f"{finding.message}, by its running statistics, and does not on the data "
                "given: those of the training changed there, and these are the old ones",
                fix="measure with the data that the training went on with; look at what changed in "
                "them",
            )
