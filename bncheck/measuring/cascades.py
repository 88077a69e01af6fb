"""The two passes over the data.

Eval cascade: every layer normalises with its running statistics, as in deployment. It says how much
is wrong. Batch cascade: every layer normalises with the batch, as in training, so a layer's wrong
statistics do not reach the layers after it. It says where.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.data import Batch, Batches
from bncheck.measuring.collector import Collector, SingleValueError
from bncheck.measuring.distributed import Processes
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.moments import Moments
from bncheck.measuring.norms import find_norms, in_eval_mode, norms_of, spare_statistics
from bncheck.measuring.outputs import Outputs

if TYPE_CHECKING:
    from torch import nn

#: Called after every batch with the samples done so far and, where known, those there are.
Progress: TypeAlias = "Callable[[int, int | None], None]"

#: Called with the batch as the model got it and the model's output.
Watch: TypeAlias = Callable[[Batch, Any], None]


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


@dataclass(frozen=True)
class Setting:
    """How to run: on which device, with which processes, and whom to tell."""

    device: str = "cpu"
    processes: Processes = field(default_factory=Processes)
    progress: Progress = lambda done, total: None


def run_cascade(
    model: nn.Module,
    data: Batches,
    cascade: Cascade,
    setting: Setting,
    watch: Watch = lambda batch, output: None,
    outputs: Outputs | None = None,
) -> Pass:
    """Send the data through the model and measure; the model comes back as it was.

    `outputs` are measured beside the inputs of the normalisation layers; with some of them, a model
    may have no such layer.
    """
    import torch

    norms = find_norms(model) if outputs is None else norms_of(model)
    collector = Collector(norms, cascade is Cascade.BATCH, outputs)
    spare = spare_statistics(norms) if cascade is Cascade.BATCH else contextlib.nullcontext()
    run = _Run(model, collector, setting, watch)
    with torch.no_grad(), in_eval_mode(model), spare, collector.attached():
        return run.over(data)


class _Run:
    """One pass: whole batches dealt to processes, their moments merged in the batches' order."""

    def __init__(
        self, model: nn.Module, collector: Collector, setting: Setting, watch: Watch
    ) -> None:
        self._model = model
        self._collector = collector
        self._setting = setting
        self._watch = watch
        self._samples = self._largest = self._skipped = 0

    def over(self, data: Batches) -> Pass:
        processes = self._setting.processes
        for round_ in _rounds(data, processes.size):
            number, mine = next(
                ((n, batch) for n, batch in round_ if n % processes.size == processes.rank),
                (0, None),
            )
            work = partial(self._measure, number, mine, round_[0])
            result = processes.guarded(work)
            for moments in processes.exchange(result, self._collector.pivots):
                self._collector.add(moments)
            self._samples += sum(batch.size for _, batch in round_)
            self._setting.progress(self._samples, data.samples)
        if not self._samples:
            raise BncheckError("give no samples", "check --data", data.name)
        return Pass(self._collector.moments, self._samples, self._largest, self._skipped)

    def _find_pivots(self, first: tuple[int, Batch]) -> None:
        """All processes pivot at batch 0, so that their sums can be merged to the last bit."""
        number, batch = first
        self._forward(number, batch)
        self._collector.discard()

    def _measure(
        self, number: int, batch: Batch | None, first: tuple[int, Batch]
    ) -> dict[str, Moments]:
        if not self._collector.pivots and self._setting.processes.rank:
            self._find_pivots(first)
        if batch is None:
            return {}
        self._largest = max(self._largest, batch.size)
        try:
            fitted, output = self._forward(number, batch)
        except SingleValueError:
            self._collector.discard()
            if batch.size >= self._largest:
                raise
            self._skipped += 1  # an incomplete last batch of one image
            return {}
        self._watch(fitted, output)
        return self._collector.take(number)

    def _forward(self, number: int, batch: Batch) -> tuple[Batch, Any]:
        fitted = prepared(self._model, batch, number, self._setting.device)
        return fitted, forward(self._model, fitted, number)


def _rounds(data: Batches, size: int) -> Iterator[list[tuple[int, Batch]]]:
    """As many numbered batches at a time as there are processes."""
    round_: list[tuple[int, Batch]] = []
    for number, batch in enumerate(data):
        if not batch.size:
            continue
        round_.append((number, batch))
        if len(round_) == size:
            yield round_
            round_ = []
    if round_:
        yield round_
