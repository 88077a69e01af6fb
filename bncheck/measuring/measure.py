"""Measure a model: the eval cascade, and where that finds something, all the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import W2_STEM
from bncheck.data import Batches
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.agreement import agree_on_model
from bncheck.measuring.cascades import Cascade, Pass, run_cascade
from bncheck.measuring.collector import ClassMean
from bncheck.measuring.comparison import compare
from bncheck.measuring.deviation import deviation
from bncheck.measuring.distributed import Processes
from bncheck.measuring.dropout import layers_behind_dropout
from bncheck.measuring.features import input_features
from bncheck.measuring.histogram import ShapeWatch
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measurement import MeasuredLayer, Measurement, measured_statistics
from bncheck.measuring.moments import Moments
from bncheck.measuring.preprocessing import search
from bncheck.measuring.results import Candidate, Comparison, fits_better
from bncheck.measuring.run import Run
from bncheck.measuring.untrained import untrained_layers

#: With fewer samples no verdict: the worst layer of a sound model can reach 0.3 by chance.
MIN_SAMPLES = 64


def measure(
    subject: Instrumented, layers: Sequence[NormLayer], data: Batches, run: Run
) -> Measurement:
    """Measure the model, whose layers `layers` describe by the file's names.

    Raises BncheckError for a model or data that cannot be measured.
    """
    subject.require_norms()
    agree_on_model(subject, run, layers)
    first = next((batch for batch in data if batch.size), None)
    if first is None:
        raise BncheckError("give no samples", "check --data", data.name)
    with ShapeWatch(subject.norms, run.shape, run.processes) as shapes:
        seen = run_cascade(subject, data, Cascade.EVAL, run)
    refuse_few_samples(seen.samples, data.name)
    measured = _layers(subject, layers, seen, shapes)
    result = Measurement(
        measured, seen.samples, data.total, seen.batch_size, run.train_batch_size,
        features=input_features(subject.model, first, run.device), thresholds=run.thresholds,
        unmeasured=subject.in_file(subject.unmeasured),
    )  # fmt: skip
    if not (run.everything or _deserves_more(result)):
        return result
    single = result.with_single_values()
    if single is not None and not run.everything:
        return replace(result, single_value=single)
    return _in_depth(subject, data, run, result)


def measure_population(
    subject: Instrumented, layers: Sequence[NormLayer], data: Batches, run: Run
) -> tuple[MeasuredLayer, ...]:
    """The batch cascade alone: it needs no usable running statistics."""
    agree_on_model(subject, run, layers)
    seen = run_cascade(subject, data, Cascade.BATCH, run)
    refuse_few_samples(seen.samples, data.name)
    moments = subject.in_file(seen.moments)
    return tuple(
        MeasuredLayer(layer, batch_moments=moments.get(layer.name))
        for layer in layers
        if layer.tracked
    )


def refuse_few_samples(samples: int, name: str) -> None:
    """Too few samples say nothing either way."""
    if samples < MIN_SAMPLES:
        raise BncheckError(
            f"{samples} samples are too few for a verdict",
            f"give at least {MIN_SAMPLES}, better 256",
            name,
        )


def _deserves_more(result: Measurement) -> bool:
    stem = result.reached[0].eval if result.reached else None
    return result.w2 >= result.thresholds.w2_warning or (stem is not None and stem.w2 >= W2_STEM)


def _in_depth(subject: Instrumented, data: Batches, run: Run, result: Measurement) -> Measurement:
    """Where is it, is it the data, and would other statistics serve better?"""
    seen = run_cascade(subject, data, Cascade.BATCH, run)
    layers = _with_batch(
        result.layers, subject.in_file(seen.moments), subject.in_file(seen.classes)
    )
    comparison = compare(subject, data, subject.in_model(measured_statistics(layers)), run)
    candidates: list[Candidate] = []
    stem = next((m for m in layers if m.eval is not None), None)
    if stem is not None and stem.eval is not None and stem.eval.w2 >= W2_STEM:
        norm = subject.by_file_name()[stem.layer.name]
        candidates = search(subject.model, norm, stem.layer, data, run.device)
    behind = layers_behind_dropout(subject, next(iter(data)), run.device)
    return replace(
        result,
        layers=layers,
        comparison=_with_candidate(subject, data, run, comparison, candidates),
        candidates=tuple(candidates),
        untrained=untrained_layers(subject.model),
        behind_dropout=subject.in_file(behind),
    )


def _with_candidate(
    subject: Instrumented,
    data: Batches,
    run: Run,
    comparison: Comparison,
    candidates: list[Candidate],
) -> Comparison:
    """Add how the model does with the running statistics and the data prepared the best way."""
    if comparison.before is None:
        return comparison
    best = _best_of_rank_0(run.processes, candidates)
    if best is None:
        return comparison
    prepared = Batches(lambda: (batch.map(best.transform) for batch in data), data.name, data.total)
    other = compare(subject, prepared, {}, run)
    return replace(comparison, extra={"candidate": other.before or 0.0})


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


def _with_batch(
    layers: tuple[MeasuredLayer, ...],
    moments: Mapping[str, Moments],
    classes: Mapping[str, Mapping[int, ClassMean]],
) -> tuple[MeasuredLayer, ...]:
    return tuple(
        replace(
            m,
            batch=deviation(m.layer, moments[m.layer.name]),
            batch_moments=moments[m.layer.name],
            classes=classes.get(m.layer.name, {}),
        )
        if m.layer.name in moments
        else m
        for m in layers
    )
