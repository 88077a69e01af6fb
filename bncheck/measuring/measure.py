"""Measure a model: the eval cascade, and where that finds something, all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import DEFAULT, W2_STEM, Thresholds
from bncheck.data import Batches
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.agreement import agree_on_model
from bncheck.measuring.cascades import Cascade, Pass, Setting, run_cascade
from bncheck.measuring.comparison import Metric, compare
from bncheck.measuring.deviation import deviation
from bncheck.measuring.distributed import Processes
from bncheck.measuring.dropout import layers_behind_dropout
from bncheck.measuring.features import input_features
from bncheck.measuring.histogram import ShapeWatch
from bncheck.measuring.measurement import MeasuredLayer, Measurement, measured_statistics
from bncheck.measuring.moments import Moments
from bncheck.measuring.norms import find_norms
from bncheck.measuring.preprocessing import search
from bncheck.measuring.results import Candidate, Comparison, fits_better

if TYPE_CHECKING:
    from torch import nn

#: With fewer samples no verdict: the worst layer of a sound model can reach 0.3 by chance.
MIN_SAMPLES = 64


@dataclass(frozen=True)
class Plan:
    """What to measure beside the moments."""

    setting: Setting = field(default_factory=Setting)
    metric: Metric | None = None
    metric_name: str = "metric"
    train_batch_size: int | None = None
    everything: bool = False  # the batch cascade and the comparison even where all is well
    shape: bool = False
    thresholds: Thresholds = DEFAULT


def measure(
    model: nn.Module, layers: Sequence[NormLayer], data: Batches, plan: Plan, prefix: str = ""
) -> Measurement:
    """Measure `model`; `layers` describe it, named as in the file, with `prefix` before each name.

    Raises BncheckError for a model or data that cannot be measured.
    """
    agree_on_model(plan.setting.processes, model, plan.setting.device, layers)
    names = {norm.name: prefix + norm.name for norm in find_norms(model)}
    known = {layer.name: layer for layer in layers}
    first = next((batch for batch in data if batch.size), None)
    if first is None:
        raise BncheckError("give no samples", "check --data", data.name)
    with ShapeWatch(find_norms(model), plan.shape, plan.setting.processes) as shapes:
        seen = run_cascade(model, data, Cascade.EVAL, plan.setting)
    refuse_few_samples(seen.samples, data.name)
    measured = _layers(known, names, seen, shapes)
    result = Measurement(
        measured, seen.samples, data.total, seen.batch_size, plan.train_batch_size,
        features=input_features(model, first, plan.setting.device), thresholds=plan.thresholds,
    )  # fmt: skip
    if not (plan.everything or _deserves_more(result)):
        return result
    single = result.with_single_values()
    if single is not None and not plan.everything:
        return replace(result, single_value=single)
    return _in_depth(model, data, plan, prefix, result)


def measure_population(
    model: nn.Module, layers: Sequence[NormLayer], data: Batches, plan: Plan, prefix: str = ""
) -> tuple[MeasuredLayer, ...]:
    """The batch cascade alone: it needs no usable running statistics."""
    agree_on_model(plan.setting.processes, model, plan.setting.device, layers)
    seen = run_cascade(model, data, Cascade.BATCH, plan.setting)
    refuse_few_samples(seen.samples, data.name)
    moments = {prefix + name: found for name, found in seen.moments.items()}
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


def _in_depth(
    model: nn.Module, data: Batches, plan: Plan, prefix: str, result: Measurement
) -> Measurement:
    """Where is it, is it the data, and would other statistics serve better?"""
    device = plan.setting.device
    seen = run_cascade(model, data, Cascade.BATCH, plan.setting)
    layers = _with_batch(result.layers, seen, prefix)
    statistics = {name[len(prefix) :]: value for name, value in measured_statistics(layers).items()}
    comparison = compare(model, data, statistics, plan.setting, plan.metric, plan.metric_name)
    candidates: list[Candidate] = []
    stem = next((m for m in layers if m.eval is not None), None)
    if stem is not None and stem.eval is not None and stem.eval.w2 >= W2_STEM:
        norm = next(n for n in find_norms(model) if prefix + n.name == stem.layer.name)
        candidates = search(model, norm, stem.layer, data, device)
    behind = layers_behind_dropout(model, next(iter(data)), device)
    return replace(
        result,
        layers=layers,
        comparison=_with_candidate(model, data, plan, comparison, candidates),
        candidates=tuple(candidates),
        behind_dropout={prefix + name: p for name, p in behind.items()},
    )


def _with_candidate(
    model: nn.Module,
    data: Batches,
    plan: Plan,
    comparison: Comparison,
    candidates: list[Candidate],
) -> Comparison:
    """Add how the model does with the running statistics and the data prepared the best way."""
    if comparison.before is None:
        return comparison
    best = _best_of_rank_0(plan.setting.processes, candidates)
    if best is None:
        return comparison
    prepared = Batches(lambda: (batch.map(best.transform) for batch in data), data.name, data.total)
    other = compare(model, prepared, {}, plan.setting, plan.metric, plan.metric_name)
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
    known: dict[str, NormLayer], names: dict[str, str], seen: Pass, shapes: ShapeWatch
) -> tuple[MeasuredLayer, ...]:
    """The layers of the model in the order of execution, then those never reached."""
    order = [*seen.moments, *(name for name in names if name not in seen.moments)]
    found = []
    for name in order:
        layer = known.get(names[name])
        if layer is None or layer.statistics is None:
            continue
        moments = seen.moments.get(name)
        held = None if moments is None else deviation(layer, moments)
        shape = shapes.of(name, held)
        found.append(MeasuredLayer(layer, held, eval_moments=moments, shape=shape))
    return tuple(found)


def _with_batch(
    layers: tuple[MeasuredLayer, ...], seen: Pass, prefix: str
) -> tuple[MeasuredLayer, ...]:
    moments: dict[str, Moments] = {prefix + name: found for name, found in seen.moments.items()}
    return tuple(
        replace(m, batch=deviation(m.layer, moments[m.layer.name]),
                batch_moments=moments[m.layer.name])
        if m.layer.name in moments
        else m
        for m in layers
    )  # fmt: skip
