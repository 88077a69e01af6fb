"""Results in three columns, a pass each: running, batch and measured statistics.

The first is the eval cascade's, the second the batch cascade's. The third pass runs with what the
second measured, and tells what the layers see then, which proves a recalibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.data import Batch, Batches
from bncheck.measuring.cascades import Cascade, run_cascade
from bncheck.measuring.comparison import compare, value_of
from bncheck.measuring.deviation import deviation
from bncheck.measuring.forward import forward, preparing
from bncheck.measuring.grading import Answers
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measurement import MeasuredLayer, measured_statistics
from bncheck.measuring.messages import Counts, Parts
from bncheck.measuring.norms import in_eval_mode, with_statistics
from bncheck.measuring.results import Comparison
from bncheck.measuring.rounds import Share, in_rounds
from bncheck.measuring.run import Run

if TYPE_CHECKING:
    from bncheck.measuring.cascades import Pass

#: Samples that are run one by one, where batches of one may be what the network was trained with.
_ONE_BY_ONE: Final = 128

Layers = tuple[MeasuredLayer, ...]


@dataclass(frozen=True)
class Columns:
    """Layers with what they see by themselves, W2 with measured statistics, and the results.

    `kinds` are those of the samples, by number of their batch.
    """

    layers: Layers
    restored: Mapping[str, float]
    comparison: Comparison
    kinds: Mapping[int, Counts]


def three_columns(
    subject: Instrumented, data: Batches, run: Run, layers: Layers, running: Answers
) -> Columns:
    """What the passes with batch statistics and with measured ones give."""
    in_batches = Answers(run.metric)
    seen = run_cascade(subject, data, Cascade.BATCH, run, in_batches)
    layers = _with_batch(subject, layers, seen)
    restored, measured = _with_measured(subject, data, run, layers)
    comparison = compare(running, measured, run.metric_name)
    if comparison.metric is None:
        return Columns(layers, restored, comparison, seen.kinds)
    size = run.train_batch_size
    if size is not None and size != seen.batch_size:
        in_batches = _in_batches_of(subject, data, run, size)
    batch = value_of(in_batches, running)
    comparison = replace(comparison, batch=batch, batch_size=size or seen.batch_size)
    if size is None and seen.batch_size > 1 and _may_be_of_one(layers, comparison):
        comparison = _with_one_by_one(subject, data, run, comparison, running)
    return Columns(layers, restored, comparison, seen.kinds)


def answers_of(subject: Instrumented, data: Batches, run: Run) -> Answers:
    """The answers with the running statistics alone, whatever these are."""
    import torch

    answers, prepare = Answers(run.metric), preparing(subject.model, run.device)

    def work(number: int, batch: Batch) -> Parts:
        fitted = prepare(batch, number)
        return answers.parts(fitted, forward(subject.model, fitted, number))

    with torch.no_grad(), in_eval_mode(subject.model):
        for round_ in in_rounds(run.processes, Share(run.processes, data), work, "answers"):
            for contribution in round_:
                answers.add(contribution.parts)
    return answers


def _with_batch(subject: Instrumented, layers: Layers, seen: Pass) -> Layers:
    moments, classes = subject.in_file(seen.moments), subject.in_file(seen.classes)
    calls = subject.in_file(seen.calls)
    return tuple(
        replace(
            m,
            batch=deviation(m.layer, moments[m.layer.name]) if _usable(m) else None,
            batch_moments=moments[m.layer.name],
            classes=classes.get(m.layer.name, {}),
            calls=tuple(calls.get(m.layer.name, ())),
        )
        if m.layer.name in moments
        else m
        for m in layers
    )


def _usable(m: MeasuredLayer) -> bool:
    """Whether a deviation from the layer's statistics is a number."""
    held = m.layer.statistics
    return held is not None and bool(np.isfinite(held).all()) and bool((held[1] >= 0).all())


def _with_measured(
    subject: Instrumented, data: Batches, run: Run, layers: Layers
) -> tuple[dict[str, float], Answers]:
    """W2 of every layer with measured statistics in the eval cascade, and the answers."""
    import torch

    statistics = measured_statistics(layers)
    answers = Answers(run.metric)
    held = subject.in_model(statistics)
    with torch.no_grad(), with_statistics(subject.norms, held):
        moments = run_cascade(subject, data, Cascade.EVAL, run, answers, near=held).moments
    seen = subject.in_file(moments)
    new = [
        replace(m.layer, mean=statistics[m.layer.name][0], var=statistics[m.layer.name][1])
        for m in layers
        if m.layer.name in statistics and m.layer.name in seen
    ]
    return {layer.name: deviation(layer, seen[layer.name]).w2 for layer in new}, answers


def _in_batches_of(subject: Instrumented, data: Batches, run: Run, size: int) -> Answers:
    answers = Answers(run.metric)
    run_cascade(subject, data.of_size(size), Cascade.BATCH, run, answers)
    return answers


def _may_be_of_one(layers: Layers, c: Comparison) -> bool:
    """Whether single samples can be normalised, and nothing else serves."""
    moments = [m.batch_moments for m in layers]
    maps = all(m is None or m.weight > m.images for m in moments)
    return maps and not c.restored and c.would_serve_far_better(1.0)


def _with_one_by_one(
    subject: Instrumented, data: Batches, run: Run, c: Comparison, running: Answers
) -> Comparison:
    """The third column with batches of one, where that serves as nothing else does."""
    value = value_of(_in_batches_of(subject, data.first(_ONE_BY_ONE), run, 1), running)
    return replace(c, batch=value, batch_size=1) if c.would_serve_far_better(value) else c
