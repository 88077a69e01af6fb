"""New running statistics for old weights, kept only if they help.

With data: population statistics in the batch cascade, dropout off. Mean and variance are pooled
over all values, so the variance has its part between batches, a short last batch weighs what it
is, and sorted data do no harm. A layer that saw nothing keeps what it has.

Without data: an average that began at 0 and 1 and was updated t times with momentum m still holds
w0 = (1-m)^t of them, so (mean / (1-w0), (var - w0) / (1-w0)) is what it would be without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.core.thresholds import Thresholds
from bncheck.core.words import Note, shortened, tell_all, unsaid
from bncheck.data import Batches
from bncheck.inspecting.choices import choice_notes
from bncheck.inspecting.from_file import Options, static_findings
from bncheck.layers.facts import at_initial_statistics, initial_share, predicted_w2
from bncheck.layers.norm_layer import Assumptions, NormLayer, find_layers
from bncheck.measuring.distributed import Processes
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measurement import MeasuredLayer, Measurement, measured_statistics
from bncheck.measuring.results import Comparison, Direction
from bncheck.measuring.run import Run
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.reading.opening import open_checkpoint
from bncheck.rules.data.bn208_would_hurt import would_hurt
from bncheck.rules.static.bn102_non_finite import non_finite
from bncheck.rules.static.bn103_negative_variance import negative_variance
from bncheck.subject.module_layers import described_by, layers_of
from bncheck.subject.setup import Measuring, instrumented
from bncheck.writing.outputs import check_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bncheck.reading.tensors import Array

    Floats = NDArray[np.float64]
    Statistics = dict[str, tuple[Floats, Floats]]

#: Layouts whose numbers cannot be replaced in place.
_NO_COPY: Final = (Container.ONNX, Container.PICKLE)
#: A counter that leaves more than this of the initial values in the average is set anew.
_SETTLED: Final = 1e-3
#: Without labels: a model that was sure of itself, most of whose predictions stay, and whose doubt
#: (1 - mean confidence) grows this many times, and by this much, has become worse.
_SURE: Final = 0.85
_MOST_FLIPS: Final = 0.3
_DOUBT_FACTOR: Final = 3.0
_DOUBT_GROWTH: Final = 0.005


@dataclass(frozen=True)
class RecalibrationReport:
    """What new statistics would do, or did; `reason` says why nothing was written.

    `also_changed` are tensors of other parts of the file that share their bytes with the new ones.
    """

    layers: tuple[str, ...]
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    statistics: Mapping[str, tuple[Floats, Floats]]
    counters: Mapping[str, int]
    unreached: tuple[str, ...] = ()
    comparison: Comparison | None = None
    samples: int | None = None
    method: str = "data"
    findings: tuple[Finding, ...] = ()
    path: Path | None = None
    written: Path | None = None
    also_changed: tuple[str, ...] = ()
    reason: str | None = None
    prefix: str = ""
    buffers: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def state_dict(self) -> dict[str, Tensor]:
        """The new buffers by their names in the model; load them with strict=False.

        Raises BncheckError where they would make the model worse.
        """
        if self.reason is not None:
            raise BncheckError(f"was not recalibrated: {self.reason}", "see .findings")
        return dict(self.buffers)

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.recalibrate/1 of its JSON."""
        c = self.comparison
        metric = None if c is None or c.metric is None else c
        return {
            "schema": "bncheck.recalibrate/1",
            "bncheck": __version__,
            "checkpoint": {"path": None if self.path is None else str(self.path)},
            "method": self.method,
            "samples": self.samples,
            "before": [{"name": n, "w2": self.before.get(n)} for n in self.layers],
            "after": [{"name": n, "w2": self.after.get(n)} for n in self.layers],
            "not_reached": list(self.unreached),
            "metric": None
            if metric is None
            else {"name": metric.metric, "before": metric.before, "after": metric.after},
            "flips": None if c is None else c.flips,
            "findings": [finding.to_dict() for finding in self.findings],
            "written": None if self.written is None else str(self.written),
            "also_changed": list(self.also_changed),
            "reason": self.reason,
        }


def recalibrate_file(
    path: Path,
    out: Path,
    options: Options,
    measuring: Measuring | None,
    ranks: Processes | None = None,
    note: Note = unsaid,
) -> RecalibrationReport:
    """Recalibrate a checkpoint; `out` is a copy in which only the BatchNorm buffers differ.

    Without `measuring`, the data-free repair of under-warmed averages. Of several `ranks` the first
    writes, once all have come as far.
    """
    ranks = ranks or Processes()
    with ranks.together("the measuring"):
        checkpoint = open_checkpoint(path, options.key)
        report = _recalibrated(checkpoint, out, options, measuring, note)
        if measuring is None:
            ranks.agree_on_report(report.to_dict())
    if report.reason is not None or ranks.rank:
        return report
    from bncheck.writing.patch import write_copy
    from bncheck.writing.sharing import shared_elsewhere

    values = _values(report, checkpoint)
    write_copy(checkpoint, values, out)
    shared = tuple(shared_elsewhere(checkpoint, values))
    if shared:
        others = f"{shortened(shared[0])}{f' and {len(shared) - 1} more' if shared[1:] else ''}"
        note(f"{out}: {others} changed, too: this file keeps them in the same bytes")
    return replace(report, written=out, also_changed=shared)


def _recalibrated(
    checkpoint: Checkpoint, out: Path, options: Options, measuring: Measuring | None, note: Note
) -> RecalibrationReport:
    path = Path(checkpoint.path)
    if checkpoint.container in _NO_COPY:
        raise BncheckError(
            f"is {checkpoint.container.value}, a layout of which no mended copy can be made",
            "recalibrate the checkpoint that it was made from, and make it again",
            str(path),
        )
    check_outputs([out], [path])
    try:
        tell_all(choice_notes(checkpoint, options), note)
        layers = tuple(find_layers(checkpoint, Assumptions(options.eps, options.momentum)))
    except BncheckError as error:
        raise error.about(str(path)) from None
    if measuring is None:
        report = repair_without_data(layers, str(path))
    else:
        subject = instrumented(measuring, checkpoint)
        report = _with_data(subject, described_by(layers, subject), measuring, options)
    return replace(report, path=path)


def recalibrate_module(
    model: nn.Module, options: Options, measuring: Measuring
) -> RecalibrationReport:
    """Recalibrate a module in memory; the module is left as it was."""
    report = _with_data(Instrumented.of(model), layers_of(model), measuring, options)
    return replace(report, buffers=_buffers(model, report))


def repair_without_data(layers: Sequence[NormLayer], subject: str) -> RecalibrationReport:
    """Take the initial 0 and 1 out of averages that were updated too rarely."""
    statistics: Statistics = {}
    before: dict[str, float | None] = {}
    for layer in layers:
        if layer.statistics is None or at_initial_statistics(layer):
            continue
        w0 = initial_share(layer)
        if layer.momentum.known and _SETTLED < w0 < 1:
            mean, var = layer.statistics
            before[layer.name] = predicted_w2(layer, w0)
            repaired = np.maximum((var - w0) / (1 - w0), 0.0)
            statistics[layer.name] = (mean / (1 - w0), repaired)
    if not statistics:
        raise BncheckError(
            "has no average that can be repaired without data (its momentum and batch counter "
            "would have to say that it is under-warmed)",
            "give --model and --data, and if you know it --momentum",
            subject,
        )
    names = tuple(statistics)
    after: dict[str, float | None] = dict.fromkeys(names)  # only data could tell
    counters = _counters([layer for layer in layers if layer.name in statistics])
    return RecalibrationReport(names, before, after, statistics, counters, method="formula")


def _with_data(
    subject: Instrumented,
    layers: tuple[NormLayer, ...],
    measuring: Measuring,
    options: Options,
) -> RecalibrationReport:
    from bncheck.measuring.measure import measure, measure_population

    run = measuring.run(options.train_batch_size, True, options.thresholds)
    data = measuring.batches()
    broken = {
        f.layer
        for f in static_findings(None, layers, options)
        if f.severity is Severity.ERROR and (non_finite.made(f) or negative_variance.made(f))
    }
    measurement: Measurement | None = None
    if broken:
        measured = measure_population(subject, layers, data, run)
    else:
        measurement = measure(subject, layers, data, run)
        measured = measurement.layers
    statistics = measured_statistics(measured)
    _refuse_non_finite(statistics)
    after, comparison = _proof(subject, measured, statistics, data, run, measurement)
    before = {m.layer.name: m.eval.w2 if m.eval else None for m in measured}
    report = RecalibrationReport(
        tuple(m.layer.name for m in measured),
        before,
        after,
        statistics,
        _counters([m.layer for m in measured if m.layer.name in statistics]),
        tuple(m.layer.name for m in measured if m.layer.name not in statistics),
        comparison,
        comparison.samples,
        prefix=subject.prefix,
    )
    return _judged(report, measurement, options.thresholds)


def _proof(
    subject: Instrumented,
    measured: Sequence[MeasuredLayer],
    statistics: Statistics,
    data: Batches,
    run: Run,
    measurement: Measurement | None,
) -> tuple[dict[str, float | None], Comparison]:
    """W2 of every layer with the new statistics in the eval cascade, and results side by side."""
    import torch

    from bncheck.measuring.cascades import Cascade, run_cascade
    from bncheck.measuring.comparison import compare
    from bncheck.measuring.deviation import deviation
    from bncheck.measuring.norms import with_statistics

    inner = subject.in_model(statistics)
    comparison = measurement.comparison if measurement else None
    if comparison is None:
        comparison = compare(subject, data, inner, run)
    with torch.no_grad(), with_statistics(subject.norms, inner):
        seen = subject.in_file(run_cascade(subject, data, Cascade.EVAL, run).moments)
    after: dict[str, float | None] = {}
    for m in measured:
        name = m.layer.name
        if name in statistics and name in seen:
            new = replace(m.layer, mean=statistics[name][0], var=statistics[name][1])
            after[name] = deviation(new, seen[name]).w2
    return after, comparison


def _refuse_non_finite(statistics: Statistics) -> None:
    for name, (mean, var) in statistics.items():
        if not (np.isfinite(mean).all() and np.isfinite(var).all()):
            raise BncheckError(
                f"layer {name} sees NaN or infinity", "the weights before it are damaged"
            )


def _judged(
    report: RecalibrationReport, measurement: Measurement | None, thresholds: Thresholds
) -> RecalibrationReport:
    """BN208 where the new statistics serve worse, or do not even agree with the data."""
    reason = _worse(report, thresholds)
    if reason is None:
        return report
    finding = would_hurt.finding(
        Severity.ERROR,
        None,
        f"nothing was written: {reason}",
        "leave the statistics as they are; check that the data are prepared as in training",
        w2=measurement.w2 if measurement else None,
        before=report.comparison.before if report.comparison else None,
        after=report.comparison.after if report.comparison else None,
    )
    return replace(report, reason=reason, findings=(finding,))


def _worse(report: RecalibrationReport, thresholds: Thresholds) -> str | None:
    c = report.comparison
    assert c is not None
    if c.direction is Direction.WORSE:
        return (
            f"{c.metric} would fall from {c.before:.3f} to {c.after:.3f}; the running statistics "
            "serve these data better than measured ones"
        )
    old = max((w2 for w2 in report.before.values() if w2 is not None), default=math.inf)
    new = max((w2 for w2 in report.after.values() if w2 is not None), default=0.0)
    if thresholds.severity(new) is not None and new >= old:
        return f"W2 would not fall (from {old:.2f} to {new:.2f})"
    if c.direction is Direction.UNKNOWN and old < math.inf and _doubts_more(c):
        assert c.confidence is not None
        return (
            "without labels there is only the model's confidence to go by, and it would fall from "
            f"{c.confidence[0]:.3f} to {c.confidence[1]:.3f}"
        )
    return None


def _doubts_more(c: Comparison) -> bool:
    """Whether a model that knew what it said knows less.

    A model with wrong statistics can be sure of nonsense, so one most of whose predictions change
    is not believed.
    """
    if c.confidence is None or c.flips is None or c.flips > _MOST_FLIPS:
        return False
    before, after = (1 - confidence for confidence in c.confidence)
    grown = after > _DOUBT_FACTOR * before and after > before + _DOUBT_GROWTH
    return 1 - before >= _SURE and grown


def _counters(layers: Sequence[NormLayer]) -> dict[str, int]:
    """Counters to write, so that the new averages do not look under-warmed.

    The smallest t with (1-m)^t at most 0.001, the same for all layers; none where the old counters
    say as much already.
    """
    needed = 0
    for layer in layers:
        momentum = layer.momentum.value
        share = initial_share(layer)
        if momentum is not None and share > _SETTLED and 0 < momentum < 1:
            needed = max(needed, math.ceil(math.log(_SETTLED) / math.log1p(-momentum)))
    if not needed:
        return {}
    return {layer.name: needed for layer in layers if layer.counter is not None}


def _values(report: RecalibrationReport, checkpoint: Checkpoint) -> dict[str, Array]:
    """New numbers by the names of tensors in the file."""
    found: dict[str, Array] = {}
    for name, (mean, var) in report.statistics.items():
        dot = f"{name}." if name else ""
        for role, values in (("running_mean", mean), ("running_var", var)):
            if f"{dot}{role}" in checkpoint.tensors:
                found[f"{dot}{role}"] = values
        counter = f"{dot}num_batches_tracked"
        if name in report.counters and counter in checkpoint.tensors:
            found[counter] = np.array(report.counters[name])
    if not found:
        raise BncheckError(
            "holds no running statistics under the names of the model", "check --key",
            str(checkpoint.path),
        )  # fmt: skip
    return found


def _buffers(model: nn.Module, report: RecalibrationReport) -> dict[str, Tensor]:
    import torch

    known = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, (mean, var) in report.statistics.items():
        dot = f"{name}." if name else ""
        for role, values in (("running_mean", mean), ("running_var", var)):
            old = known[f"{dot}{role}"]
            found[f"{dot}{role}"] = torch.from_numpy(values).to(old.device, old.dtype)
        if name in report.counters:
            old = known[f"{dot}num_batches_tracked"]
            found[f"{dot}num_batches_tracked"] = torch.full_like(old, report.counters[name])
    return found
