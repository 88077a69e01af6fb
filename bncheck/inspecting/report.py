"""The report of `inspect`, and how it is written as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bncheck._version import __version__
from bncheck.core.findings import Finding, Severity, Verdict, cause_of, verdict_of
from bncheck.core.report import Report
from bncheck.layers.facts import dead_channels
from bncheck.layers.norm_layer import NormLayer, Setting, common
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.kinds import NormKind

if TYPE_CHECKING:
    from bncheck.measuring.measurement import MeasuredLayer, Measurement
    from bncheck.reading.tensors import Array


@dataclass(frozen=True, slots=True)
class Summary:
    """The report in a few numbers and words; w2, samples and metric are None without data.

    `judged` is what the verdict rests on: the file alone, or data. `known` counts the errors and
    warnings that a baseline covers, which neither the verdict nor the other counts include.
    """

    layers: int
    errors: int
    warnings: int
    infos: int
    verdict: Verdict
    cause: str | None
    w2: float | None = None
    samples: int | None = None
    metric: str | None = None
    judged: str = "file"
    known: int = 0


#: The tensors of a layer in the JSON, by their smallest and largest values.
_RANGES = ("running_mean", "running_var", "weight", "bias")


@dataclass(frozen=True, slots=True)
class OtherPart:
    """Another part of the file, judged by the file alone, where nobody said which part is meant.

    `verdict` is None where it cannot be judged, for the `reason`; `cause` a rule's code.
    """

    key: str
    verdict: Verdict | None
    cause: str | None = None
    reason: str | None = None

    @property
    def word(self) -> str:
        """The verdict for people, or why there is none."""
        if self.verdict is None:
            return self.reason or ""
        return "no fault found" if self.verdict is Verdict.HEALTHY else self.verdict.value

    def to_dict(self) -> dict[str, object]:
        """The part as plain data."""
        verdict = None if self.verdict is None else self.verdict.value
        return {"key": self.key, "verdict": verdict, "cause": self.cause, "reason": self.reason}


@dataclass(frozen=True, slots=True, repr=False)
class InspectReport(Report):
    """What one checkpoint says about its normalisation layers, and its data where there are any.

    `checkpoint` is None for a module in memory. `eps` and `momentum` are what all layers with
    statistics share: None where there are no such layers, a value of None where they differ.
    `known` are the findings that a baseline covers; `others` are the file's other parts, of which
    neither the verdict nor the findings speak.
    """

    command: ClassVar = "inspect"
    asks: ClassVar = ("BN1", "BN401", "BN2")

    checkpoint: Checkpoint | None
    layers: tuple[NormLayer, ...]
    findings: tuple[Finding, ...]
    measurement: Measurement | None = None
    train_batch_size: int | None = None
    known: tuple[Finding, ...] = ()
    others: tuple[OtherPart, ...] = ()

    @property
    def broken_beside(self) -> list[OtherPart]:
        """The other parts of the file that are broken."""
        return [part for part in self.others if part.verdict is Verdict.BROKEN]

    @property
    def asked(self) -> tuple[str, ...]:
        """Without data those about the file."""
        return self.asks if self.measurement is not None else self.asks[:-1]

    @property
    def layer_names(self) -> list[str]:
        """The layers' names."""
        return [layer.name for layer in self.layers]

    @property
    def certain_layers(self) -> int:
        """How many layers are more than a weight whose name speaks of a norm."""
        return sum(layer.kind is not NormKind.BY_NAME for layer in self.layers)

    @property
    def subject(self) -> str:
        """What the report is about."""
        return str(self.checkpoint.path) if self.checkpoint else "the model"

    @property
    def summary(self) -> Summary:
        """The verdict and the counts behind it."""
        errors, warnings, infos = (
            sum(finding.severity is severity for finding in self.findings) for severity in Severity
        )
        verdict, cause = verdict_of(self.findings), cause_of(self.findings)
        known = sum(finding.severity is not Severity.INFO for finding in self.known)
        layers = len(self.layers)
        counts = Summary(layers, errors, warnings, infos, verdict, cause, known=known)
        if self.measurement is None:
            return counts
        comparison = self.measurement.comparison
        return replace(
            counts,
            w2=self.measurement.w2,
            samples=self.measurement.samples,
            metric=comparison.metric if comparison else None,
            judged="data",
        )

    @property
    def word(self) -> str:
        """The verdict for people: a file alone can be broken, but never shows itself healthy."""
        summary = self.summary
        if summary.verdict is not Verdict.HEALTHY:
            return summary.verdict.value
        if summary.known:
            return "known"
        return "no fault found" if self.measurement is None else summary.verdict.value

    @property
    def eps(self) -> Setting | None:
        """The eps of all layers with statistics."""
        return common(layer.eps for layer in self.layers if layer.tracked)

    @property
    def momentum(self) -> Setting | None:
        """The momentum of all layers with statistics."""
        return common(layer.momentum for layer in self.layers if layer.tracked)

    def unmeasured(self) -> dict[str, str]:
        """Every layer that was not measured although there were data, with the reason."""
        if self.measurement is None:
            return {}
        found = {layer.name: self.measurement.why_not(layer) for layer in self.layers}
        return {name: reason for name, reason in found.items() if reason is not None}

    def rows(self) -> list[dict[str, Any]]:
        """A layer a row."""
        layers: list[dict[str, Any]] = self.to_dict()["layers"]  # type: ignore[assignment]
        unknown = {"min": None, "max": None}
        return [{**layer, **{key: layer[key] or unknown for key in _RANGES}} for layer in layers]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.inspect/1 of its JSON."""
        measured = self.measurement.by_name() if self.measurement else {}
        reasons = self.unmeasured()
        return {
            "schema": "bncheck.inspect/1",
            "bncheck": __version__,
            "checkpoint": _checkpoint_data(self.checkpoint),
            "assumptions": {
                "eps": _setting_data(self.eps),
                "momentum": _setting_data(self.momentum),
            },
            "layers": [
                {
                    **_layer_data(layer, measured.get(layer.name), self.train_batch_size),
                    "measured": None if self.measurement is None else layer.name not in reasons,
                    "reason": reasons.get(layer.name),
                }
                for layer in self.layers
            ],
            "findings": [finding.to_dict() for finding in self.findings],
            "summary": {**asdict(self.summary), "verdict": self.summary.verdict.value},
            "results": _results_data(self.measurement),
            "others": [part.to_dict() for part in self.others],
            **({"measurement": _measurement_data(self.measurement)} if self.measurement else {}),
        }


def _setting_data(setting: Setting | None) -> dict[str, object]:
    if setting is None:
        return {"value": None, "source": None}
    return {"value": setting.value, "source": setting.origin.value}


def _checkpoint_data(checkpoint: Checkpoint | None) -> dict[str, object] | None:
    if checkpoint is None:
        return None
    return {
        "path": str(checkpoint.path),
        "container": checkpoint.container.value,
        "key": checkpoint.key or None,
        "prefix": checkpoint.prefix or None,
        "tensors": len(checkpoint.tensors),
    }


def _layer_data(
    layer: NormLayer, measured: MeasuredLayer | None, train_batch_size: int | None
) -> dict[str, object]:
    held, alone = (measured.eval, measured.batch) if measured else (None, None)
    data: dict[str, object] = {
        "name": layer.name,
        "kind": layer.kind.value,
        "channels": layer.channels,
        "eps": layer.eps.value if layer.eps.known else None,
        "momentum": layer.momentum.value if layer.momentum.known else None,
        "num_batches_tracked": layer.counter if layer.counter else layer.batches,
        "running_mean": _range_data(layer.mean),
        "running_var": _range_data(layer.var),
        "weight": _range_data(layer.weight),
        "bias": _range_data(layer.bias),
        "dead_channels": int(dead_channels(layer).sum()),
        "w2": {"eval": held.w2 if held else None, "batch": alone.w2 if alone else None},
        "z_share": measured.z_share(train_batch_size) if measured else None,
        "worst_channels": measured.worst_channels if measured else [],
    }
    if measured and measured.shape:
        data["shape"] = measured.shape.to_dict()
    return data


def _measurement_data(measurement: Measurement) -> dict[str, object]:
    comparison = measurement.comparison
    return {
        "samples": measurement.samples,
        "available": measurement.available,
        "batch_size": measurement.batch_size,
        "not_reached": [m.layer.name for m in measurement.layers if m.eval is None],
        "comparison": None
        if comparison is None
        else {
            "metric": comparison.metric,
            "before": comparison.before,
            "after": comparison.after,
            "direction": comparison.direction.value,
            "flips": comparison.flips,
            "loss": comparison.loss,
            "output_change": comparison.output_change,
        },
        "preprocessing": [{"name": c.name, "w2": c.w2} for c in measurement.candidates],
        "input_features": measurement.features.to_dict() if measurement.features else None,
        "batch_size_advice": {
            "smallest": measurement.smallest_batch(measurement.thresholds.w2_warning),
            "noise": {str(size): noise for size, noise in measurement.batch_noise().items()},
        },
    }


def _results_data(measurement: Measurement | None) -> dict[str, object] | None:
    """Results in three columns; None without labels."""
    if measurement is None or measurement.comparison is None:
        return None
    return measurement.comparison.to_dict()


def _range_data(array: Array | None) -> dict[str, float] | None:
    """Minimum and maximum; NaN where the tensor has one."""
    if array is None or not array.size:
        return None
    values = array.astype("float64")
    return {"min": float(values.min()), "max": float(values.max())}
