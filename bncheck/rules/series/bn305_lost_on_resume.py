"""BN305."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.batches import distance_text
from bncheck.rules.series.resets import Reset, resets_of

if TYPE_CHECKING:
    from bncheck.series.movement import Movement


@rule("BN305", "statistics-lost-on-resume", Severity.ERROR, Severity.WARNING)
def lost_on_resume(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """A training went on with its weights, and its running statistics or counters fell back.

    A checkpoint without buffers (parameters only, strict=False, a wrapper's own format), an average
    of weights put in the place of the model, or reset_running_stats(). The loss does not show it,
    for train() looks at batches alone; until the averages have followed, eval() is wrong, and with
    a small momentum it stays so.

    Criterion: weight and bias are those of the snapshot before or near them (less than half of
    their way from 1 and 0), the steps go on, and num_batches_tracked falls; or, in a record, at the
    start of a resumed training, W2 to the snapshot before is from 0.40 and more than 4 times what
    the layer moved before. Error from W2 0.40, warning where only the counter fell.

    Fix: save and load the whole state dict, buffers too, strictly; recalibrate what was trained.
    """
    for name in movement.layers:
        for reset in resets_of(movement, name):
            yield _finding(self, movement, name, reset)


def _finding(self: Rule[Movement, Finding], movement: Movement, name: str, reset: Reset) -> Finding:
    before, after = movement.snapshots[reset.place - 1], movement.snapshots[reset.place]
    far = reset.w2 >= movement.thresholds.w2_error
    what = []
    if reset.counters is not None:
        what.append("its batch counter falls from {:,} to {:,}".format(*reset.counters))
    if far or not what:
        what.append(
            f"its running statistics are W2 {distance_text(reset.w2)} from those of {before.label}"
        )
    return self.finding(
        Severity.ERROR if far else Severity.WARNING,
        name,
        f"{' and '.join(what)} at {after.label}, while its weight and bias go on",
        "load buffers, too, when a training is resumed (strict=True); recalibrate with data",
        w2=reset.w2,
        before=str(before.path),
        after=str(after.path),
    )
