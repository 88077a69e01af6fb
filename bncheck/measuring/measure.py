"""Measure a model: the eval cascade, and where that finds something, all the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import W2_MILD, W2_STEM
from bncheck.core.words import count
from bncheck.data import Batch, Batches
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.agreement import agree_on_model
from bncheck.measuring.cascades import Cascade, Pass, run_cascade
from bncheck.measuring.columns import answers_of, three_columns
from bncheck.measuring.comparison import running_alone
from bncheck.measuring.deviation import deviation
from bncheck.measuring.distributed import Processes
from bncheck.measuring.dropout import DropoutWatch
from bncheck.measuring.entries import Entry, entries, of_input
from bncheck.measuring.grading import Answers
from bncheck.measuring.histogram import ShapeWatch
from bncheck.measuring.input_watch import InputWatch
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measurement import MeasuredLayer, Measurement
from bncheck.measuring.preprocessing import search
from bncheck.measuring.reruns import Rerunning
from bncheck.measuring.results import Candidate, Comparison, fits_better
from bncheck.measuring.run import Run

#: With fewer samples no verdict: the worst layer of a sound model can reach 0.3 by chance.
MIN_SAMPLES = 64
#: Where W2 is small, results are compared on this many samples.
_FEW = 512


def measure(
    subject: Instrumented, layers: Sequence[NormLayer], data: Batches, run: Run
) -> Measurement:
    """Measure the model, whose layers `layers` describe by the file's names.

    Raises BncheckError for a model or data that cannot be measured.
    """
    subject.require_norms()
    agree_on_model(subject, run, layers)
    answers = Answers(run.metric)
    inputs, dropout = InputWatch(subject.model, run.processes), DropoutWatch(subject.norms)
    shapes = ShapeWatch(subject.norms, run.shape, run.processes)

    @contextlib.contextmanager
    def first() -> Iterator[None]:
        with dropout.watching(), inputs.first_forward():
            yield

    with shapes, inputs.watching():
        seen = run_cascade(subject, data, Cascade.EVAL, run, answers, first=first)
    refuse_few_samples(seen.samples, data.name)
    measured = _layers(subject, layers, seen, shapes)
    result = Measurement(
        measured, seen.samples, data.total, seen.batch_size, run.train_batch_size,
        comparison=running_alone(answers, run.metric_name), features=inputs.features(),
        behind_dropout=subject.in_file(dropout.found), thresholds=run.thresholds,
        unmeasured=subject.in_file(subject.unmeasured),
    )  # fmt: skip
    if not (run.everything or _deserves_more(result)):
        return result
    single = result.with_single_values()
    if single is not None and not run.everything:
        return replace(result, single_value=single)
    whole = run.everything or looks_at_all(result)
    return in_depth(subject, data if whole else data.first(_FEW), run, result, answers)


def looks_at_all(result: Measurement) -> bool:
    """Whether all samples tell where it is and what it costs, and not the first few."""
    return result.w2 >= result.thresholds.w2_warning


def measure_population(
    subject: Instrumented, layers: Sequence[NormLayer], data: Batches, run: Run
) -> Measurement:
    """What needs no usable running statistics: the batch cascade, and the results."""
    agree_on_model(subject, run, layers)
    running = answers_of(subject, data, run)
    refuse_few_samples(running.samples, data.name)
    unmeasured = subject.in_file(subject.unmeasured)
    tracked = tuple(
        MeasuredLayer(layer) for layer in layers if layer.tracked and layer.name not in unmeasured
    )
    found = three_columns(subject, data, run, tracked, running)
    size = found.comparison.batch_size or 0
    return Measurement(
        found.layers, running.samples, data.total, size, run.train_batch_size,
        found.comparison, restored=found.restored, thresholds=run.thresholds,
        unmeasured=unmeasured,
    )  # fmt: skip


def refuse_few_samples(samples: int, name: str) -> None:
    """Too few samples say nothing either way."""
    if samples < MIN_SAMPLES:
        verb = "is" if samples == 1 else "are"
        raise BncheckError(
            f"{count(samples, 'sample')} {verb} not enough for a verdict",
            f"give at least {MIN_SAMPLES}, preferably 256",
            name,
        )


def _deserves_more(result: Measurement) -> bool:
    """Whether to look where it is, and with labels whether it matters."""
    stem = result.reached[0].eval if result.reached else None
    mild = result.comparison is not None and result.w2 >= W2_MILD
    severe = result.w2 >= result.thresholds.w2_warning
    return severe or mild or (stem is not None and stem.w2 >= W2_STEM)


def in_depth(
    subject: Instrumented, data: Batches, run: Run, result: Measurement, running: Answers
) -> Measurement:
    """Where is it, is it the data, and would other statistics serve better?

    A pass with batch statistics and one with measured ones; `running` has the answers of the first.
    """
    found = three_columns(subject, data, run, result.layers, running)
    layers = found.layers
    read = entries(subject, data, run) or _first_alone(layers)
    candidates = [*chain.from_iterable(_candidates(subject, layers, read, data, run))]
    return replace(
        result,
        layers=layers,
        restored=found.restored,
        comparison=_with_candidates(subject, data, run, found.comparison, candidates),
        candidates=tuple(candidates),
        entries=read,
        reruns=Rerunning(subject, data, run, found.kinds),
    )


def _first_alone(layers: Sequence[MeasuredLayer]) -> tuple[Entry, ...]:
    """Where a few samples cannot be run, the first layer reads the first input."""
    return tuple(Entry(m.layer.name, (0,)) for m in layers[:1] if m.eval is not None)


def _candidates(
    subject: Instrumented,
    layers: Sequence[MeasuredLayer],
    read: Sequence[Entry],
    data: Batches,
    run: Run,
) -> Iterator[list[Candidate]]:
    """Preparations of each input whose layers deviate, by the one that does most."""
    norms, found = subject.by_file_name(), []
    for place in sorted({place for entry in read for place in entry.inputs}):
        names = {entry.layer for entry in of_input(read, place)}
        of_it = [m for m in layers if m.layer.name in names and m.eval is not None]
        worst = max(of_it, key=lambda m: m.eval.w2 if m.eval else 0.0, default=None)
        if worst is not None and worst.eval is not None and worst.eval.w2 >= W2_STEM:
            found.append((worst.eval.w2, place, worst.layer))
    for _, place, layer in sorted(found, key=lambda one: -one[0]):
        yield search(subject.model, norms[layer.name], layer, data, run, place)


def _with_candidates(
    subject: Instrumented,
    data: Batches,
    run: Run,
    comparison: Comparison,
    candidates: Sequence[Candidate],
) -> Comparison:
    """Add how the model does with the running statistics and every input prepared the best way."""
    if comparison.before is None:
        return comparison
    places = dict.fromkeys(candidate.place for candidate in candidates)
    each = [[c for c in candidates if c.place == place] for place in places]
    best = [found for of_one in each if (found := _best_of_rank_0(run.processes, of_one))]
    if not best:
        return comparison
    few = data.first(_FEW)

    def prepared(batch: Batch) -> Batch:
        for one in best:
            batch = batch.with_input(one.place, one.transform)
        return batch

    changed = Batches(lambda: (prepared(batch) for batch in few), data.name, few.total)
    other = running_alone(answers_of(subject, changed, run), run.metric_name)
    value = other.before if other is not None else None
    return replace(comparison, extra={"candidate": value or 0.0})


def _best_of_rank_0(processes: Processes, candidates: list[Candidate]) -> Candidate | None:
    """The preparation that fits rank 0's images better than what is given: all try the same."""
    mine = candidates[0].name if candidates and fits_better(candidates) else ""
    chosen = processes.told("the preparation that fits", mine.encode())[0].decode()
    if not chosen:
        return None
    found = next((candidate for candidate in candidates if candidate.name == chosen), None)
    if found is None:
        raise BncheckError(f"cannot prepare these data as rank 0's ({chosen})", "check --data")
    return found


def _layers(
    subject: Instrumented, layers: Sequence[NormLayer], seen: Pass, shapes: ShapeWatch
) -> tuple[MeasuredLayer, ...]:
    """The layers of the model in the order of execution, then those never reached."""
    known = subject.in_model({layer.name: layer for layer in layers})
    unreached = [norm.name for norm in subject.norms if norm.name not in seen.moments]
    found = []
    for name in (*seen.moments, *unreached):
        layer = known.get(name)
        if layer is None or layer.statistics is None:
            continue
        moments = seen.moments.get(name)
        held = None if moments is None else deviation(layer, moments)
        shape = shapes.of(name, held)
        found.append(MeasuredLayer(layer, held, eval_moments=moments, shape=shape))
    return tuple(found)
