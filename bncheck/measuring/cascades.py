"""The two passes over the data.

Eval cascade: every layer normalises with its running statistics, as in deployment. It says how much
is wrong. Batch cascade: every layer normalises with the batch, as in training, so a layer's wrong
statistics do not reach the layers after it. It says where.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.timing import timed
from bncheck.data import Batch, Batches
from bncheck.measuring.class_means import Classes, of_all_ranks
from bncheck.measuring.collector import Collector, SingleValueError
from bncheck.measuring.forward import forward, preparing
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.kinds import Kinds
from bncheck.measuring.merging import Merging, by_call
from bncheck.measuring.messages import Counts, Parts
from bncheck.measuring.moments import Moments, unpack
from bncheck.measuring.norms import in_eval_mode, spare_statistics
from bncheck.measuring.outputs import Outputs
from bncheck.measuring.rounds import Share, in_rounds
from bncheck.measuring.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Floats = NDArray[np.float64]

#: Means of a layer on one batch, computed twice, differ by less: in standard deviations.
_ROUNDING: Final = 0.05

#: Stands before the names of what a watch keeps; no module's name begins with it.
_WATCHED: Final = "."
#: Stands before the number of a batch, and names the kinds of its samples.
_KINDS: Final = "\x03"


class Watch(Protocol):
    """Keeps what it wants of the outputs, which other processes are sent."""

    def parts(self, batch: Batch, output: Any) -> Parts:
        """Of the batch as the model got it, and the output."""
        ...

    def add(self, parts: Parts) -> None:
        """The parts of the next batch, of whatever process; none of one that was left out."""
        ...


class Cascade(StrEnum):
    """What the layers normalise with while they are measured."""

    EVAL = "eval"
    BATCH = "batch"


@dataclass(frozen=True)
class Pass:
    """What one cascade gave: moments by layer in the order of execution, and how many samples.

    `calls` has those of each call, for layers that a forward calls several times (batch cascade).
    `kinds` are the samples' by number of their batch, where all processes read the same.
    """

    moments: dict[str, Moments]
    samples: int
    batch_size: int
    skipped: int = 0
    classes: Classes = field(default_factory=dict)
    calls: Mapping[str, Sequence[Moments]] = field(default_factory=dict)
    kinds: Mapping[int, Counts] = field(default_factory=dict)


@timed("passes over the data")
def run_cascade(
    subject: Instrumented,
    data: Batches,
    cascade: Cascade,
    run: Run,
    watch: Watch | None = None,
    outputs: Outputs | None = None,
    first: Callable[[], AbstractContextManager[object]] = nullcontext,
    near: Container[str] = (),
) -> Pass:
    """Send the data through the model and measure; the model comes back as it was.

    `outputs` are measured beside the inputs of the normalisation layers; with some of them, a model
    may have no such layer. `watch` is shown every output, and the first forward runs in `first()`.
    What the layers `near` see is close to their running means, which then serve as pivots.
    """
    import torch

    if outputs is None:
        subject.require_norms()
    collector = Collector(subject.norms, cascade is Cascade.BATCH, outputs, subject.own)
    collector.pivot_at_running_means(near)
    spare = spare_statistics(subject.norms) if cascade is Cascade.BATCH else nullcontext()
    gathering = _Gathering(subject.model, collector, cascade, run, watch, first)
    with torch.no_grad(), in_eval_mode(subject.model), spare, collector.attached():
        return gathering.over(data)


class _Gathering:
    """One pass: whole batches dealt to processes, their moments merged in the batches' order."""

    def __init__(
        self,
        model: nn.Module,
        collector: Collector,
        cascade: Cascade,
        run: Run,
        watch: Watch | None,
        first: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._model = model
        self._prepared = preparing(model, run.device)
        self._collector = collector
        self._merging = Merging()
        self._run = run
        self._watch = watch
        self._around_first = first
        self._first: Parts = {}
        self._telling = Kinds() if cascade is Cascade.BATCH else None
        self._kinds: dict[int, Counts] = {}
        self._samples = self._largest = self._skipped = 0

    def over(self, data: Batches) -> Pass:
        processes = self._run.processes
        share = Share(processes, data)
        for round_ in in_rounds(processes, share, partial(self._measure, share), "moments"):
            self._compare_first(round_[0].parts)
            for contribution in round_:
                moments, watched, kinds = _parted(contribution.parts)
                self._merging.add(moments)
                self._kinds |= kinds
                self._skipped += not moments
                if self._watch is not None:
                    self._watch.add(watched)
                self._samples += contribution.samples
                self._largest = max(self._largest, contribution.samples)
            self._run.progress(self._samples, data.samples)
        if not self._samples:
            raise BncheckError("give no samples", "check --data", data.name)
        classes: Classes = self._collector.classes.by_layer()
        if self._telling is not None:
            classes = of_all_ranks(classes, processes)
        layers, calls = by_call(self._merging.moments)
        seen = (self._samples, self._largest, self._skipped)
        return Pass(layers, *seen, classes, calls, self._kinds)

    def _measure(self, share: Share, number: int, batch: Batch) -> Parts:
        if not self._collector.pivots and share.first is not None and share.first[0] != number:
            # All ranks take their pivots and their way to tell kinds from the first batch, so that
            # sums merge to the last bit.
            self._kinds_of(*self._forward(*share.first))
            self._first = self._collector.take(share.first[0])
        try:
            fitted, output = self._forward(number, batch)
        except SingleValueError:
            self._collector.discard()
            if batch.size >= share.largest:
                raise
            return {}  # an incomplete last batch of one image
        kept = self._watch.parts(fitted, output) if self._watch is not None else {}
        kinds = self._collector.labels = self._kinds_of(fitted, output)
        told = {} if kinds is None else {f"{_KINDS}{number}": kinds.cpu().numpy()}
        moments = self._collector.take(number)
        return {**moments, **{_WATCHED + name: array for name, array in kept.items()}, **told}

    def _kinds_of(self, batch: Batch, output: Any) -> Tensor | None:
        """None where ranks have data of their own, whose kinds may be numbered otherwise."""
        if self._telling is None or self._run.processes.own_data:
            return None
        return self._telling.of(batch.target, output, batch.size)

    def _compare_first(self, rank_0: Parts) -> None:
        """Equal weights may be run by other code: the first batch tells, beyond rounding."""
        for name, mine in self._first.items():
            theirs = unpack(rank_0[name]) if name in rank_0 else None
            if theirs is None or _apart(unpack(mine), theirs) > _ROUNDING:
                rank = self._run.processes.rank
                raise BncheckError(
                    f"layer {name} sees other values on rank {rank} than on rank 0, on one batch",
                    "start all ranks with the same code",
                )
        self._first = {}

    def _forward(self, number: int, batch: Batch) -> tuple[Batch, Any]:
        fitted = self._prepared(batch, number)
        around, self._around_first = self._around_first, nullcontext
        with around():
            return fitted, forward(self._model, fitted, number)


def _parted(parts: Parts) -> tuple[Parts, Parts, Mapping[int, Counts]]:
    """The moments of layers, what a watch kept, and kinds."""
    marked = (_WATCHED, _KINDS)
    moments = {name: array for name, array in parts.items() if not name.startswith(marked)}
    watched, kinds = (
        {name[1:]: array for name, array in parts.items() if name.startswith(mark)}
        for mark in marked
    )
    return moments, watched, {int(number): array for number, array in kinds.items()}


def _apart(one: Moments, other: Moments) -> float:
    """How far the means of two lie apart, in standard deviations of the layer."""
    spread = float(np.sqrt(np.mean(other.var))) or 1.0
    return float(np.sqrt(np.mean((one.mean - other.mean) ** 2))) / spread
