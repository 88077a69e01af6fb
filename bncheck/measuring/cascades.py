"""The two passes over the data.

Eval cascade: every layer normalises with its running statistics, as in deployment. It says how much
is wrong. Batch cascade: every layer normalises with the batch, as in training, so a layer's wrong
statistics do not reach the layers after it. It says where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.data import Batch, Batches
from bncheck.measuring.collector import ClassMean, Collector, SingleValueError
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.messages import Parts
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

#: Called with the batch as the model got it and the model's output.
Watch: TypeAlias = Callable[[Batch, Any], None]


#: Class means are kept of so many classes at most.
_CLASSES: Final = 1000


class Cascade(StrEnum):
    """What the layers normalise with while they are measured."""

    EVAL = "eval"
    BATCH = "batch"


@dataclass(frozen=True)
class Pass:
    """What one cascade gave: moments by layer in the order of execution, and how many samples."""

    moments: dict[str, Moments]
    samples: int
    batch_size: int
    skipped: int = 0
    classes: Mapping[str, Mapping[int, ClassMean]] = field(default_factory=dict)


def run_cascade(
    subject: Instrumented,
    data: Batches,
    cascade: Cascade,
    run: Run,
    watch: Watch = lambda batch, output: None,
    outputs: Outputs | None = None,
) -> Pass:
    """Send the data through the model and measure; the model comes back as it was.

    `outputs` are measured beside the inputs of the normalisation layers; with some of them, a model
    may have no such layer.
    """
    import torch

    if outputs is None:
        subject.require_norms()
    collector = Collector(subject.norms, cascade is Cascade.BATCH, outputs, subject.own)
    spare = spare_statistics(subject.norms) if cascade is Cascade.BATCH else nullcontext()
    gathering = _Gathering(subject.model, collector, run, watch)
    with torch.no_grad(), in_eval_mode(subject.model), spare, collector.attached():
        return gathering.over(data)


class _Gathering:
    """One pass: whole batches dealt to processes, their moments merged in the batches' order."""

    def __init__(self, model: nn.Module, collector: Collector, run: Run, watch: Watch) -> None:
        self._model = model
        self._collector = collector
        self._run = run
        self._watch = watch
        self._first: dict[str, Moments] = {}
        self._samples = self._largest = self._skipped = 0

    def over(self, data: Batches) -> Pass:
        processes = self._run.processes
        share = Share(processes, data)
        for round_ in in_rounds(processes, share, partial(self._measure, share), "moments"):
            self._compare_first(round_[0].parts)
            for contribution in round_:
                self._collector.add({n: unpack(v) for n, v in contribution.parts.items()})
                self._skipped += not contribution.parts
                self._samples += contribution.samples
                self._largest = max(self._largest, contribution.samples)
            self._run.progress(self._samples, data.samples)
        if not self._samples:
            raise BncheckError("give no samples", "check --data", data.name)
        found = self._collector
        classes = found.classes.by_layer()
        return Pass(found.moments, self._samples, self._largest, self._skipped, classes)

    def _measure(self, share: Share, number: int, batch: Batch) -> Parts:
        if not self._collector.pivots and share.first is not None and share.first[0] != number:
            self._forward(*share.first)  # all pivot at the first batch: sums merge to the last bit
            self._first = self._collector.take(share.first[0])
        try:
            fitted, output = self._forward(number, batch)
        except SingleValueError:
            self._collector.discard()
            if batch.size >= share.largest:
                raise
            return {}  # an incomplete last batch of one image
        self._watch(fitted, output)
        self._collector.labels = _labels(fitted) if self._run.processes.size == 1 else None
        return {name: moments.pack() for name, moments in self._collector.take(number).items()}

    def _compare_first(self, rank_0: Parts) -> None:
        """Equal weights may be run by other code: the first batch tells, beyond rounding."""
        for name, mine in self._first.items():
            theirs = unpack(rank_0[name]) if name in rank_0 else None
            if theirs is None or _apart(mine, theirs) > _ROUNDING:
                rank = self._run.processes.rank
                raise BncheckError(
                    f"layer {name} sees other values on rank {rank} than on rank 0, on one batch",
                    "start all ranks with the same code",
                )
        self._first = {}

    def _forward(self, number: int, batch: Batch) -> tuple[Batch, Any]:
        fitted = prepared(self._model, batch, number, self._run.device)
        return fitted, forward(self._model, fitted, number)


def _labels(batch: Batch) -> Tensor | None:
    """The batch's labels, where each sample has one of a few classes."""
    target = batch.target
    if target is None or target.is_floating_point() or target.ndim != 1:
        return None
    return target if len(target) == batch.size and int(target.max()) < _CLASSES else None


def _apart(one: Moments, other: Moments) -> float:
    """How far the means of two lie apart, in standard deviations of the layer."""
    spread = float(np.sqrt(np.mean(other.var))) or 1.0
    return float(np.sqrt(np.mean((one.mean - other.mean) ** 2))) / spread
