"""`inspect`: one checkpoint in, one report out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bncheck._version import __version__
from bncheck.errors import BncheckError
from bncheck.findings import Finding, Severity, Verdict, cause_of, verdict_of
from bncheck.layers import Assumptions, NormLayer, Setting, common, find_layers
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.reading.opening import open_checkpoint
from bncheck.rules.registry import choose_rules
from bncheck.rules.rule import Network
from bncheck.rules.static.bn109_dead_channels import dead_channels

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

_PROGRAMS = (Container.TORCHSCRIPT, Container.EXPORTED_PROGRAM, Container.ONNX)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user can set about an inspection."""

    key: str | None = None
    eps: float | None = None
    momentum: float | None = None
    train_batch_size: int | None = None
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """The report in nine numbers and words; w2, samples and metric are None without data."""

    layers: int
    errors: int
    warnings: int
    infos: int
    verdict: Verdict
    cause: str | None
    w2: float | None = None
    samples: int | None = None
    metric: str | None = None


@dataclass(frozen=True, slots=True)
class InspectReport:
    """What one checkpoint says about its normalisation layers.

    `eps` and `momentum` are what all layers with statistics share: None where there are no such
    layers, a value of None where they differ.
    """

    checkpoint: Checkpoint
    layers: tuple[NormLayer, ...]
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> Summary:
        """The verdict and the counts behind it."""
        errors, warnings, infos = (
            sum(finding.severity is severity for finding in self.findings) for severity in Severity
        )
        verdict, cause = verdict_of(self.findings), cause_of(self.findings)
        return Summary(len(self.layers), errors, warnings, infos, verdict, cause)

    @property
    def eps(self) -> Setting | None:
        """The eps of all layers with statistics."""
        return common(layer.eps for layer in self.layers if layer.tracked)

    @property
    def momentum(self) -> Setting | None:
        """The momentum of all layers with statistics."""
        return common(layer.momentum for layer in self.layers if layer.tracked)

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.inspect/1 of its JSON."""
        checkpoint = self.checkpoint
        return {
            "schema": "bncheck.inspect/1",
            "bncheck": __version__,
            "checkpoint": {
                "path": str(checkpoint.path),
                "container": checkpoint.container.value,
                "key": checkpoint.key or None,
                "prefix": checkpoint.prefix or None,
                "tensors": len(checkpoint.tensors),
            },
            "assumptions": {
                "eps": _setting_data(self.eps),
                "momentum": _setting_data(self.momentum),
            },
            "layers": [_layer_data(layer) for layer in self.layers],
            "findings": [finding.to_dict() for finding in self.findings],
            "summary": {**asdict(self.summary), "verdict": self.summary.verdict.value},
        }


def inspect(path: str | Path, options: Options | None = None) -> InspectReport:
    """Inspect the file or folder at `path`, executing nothing in it.

    Raises BncheckError where it cannot be read, or an option names what does not exist.
    """
    options = options or Options()
    choose_rules(options.select, options.ignore)  # a misspelt rule is no fault of the file
    checkpoint = open_checkpoint(path, options.key)
    try:
        return judge(checkpoint, options)
    except BncheckError as error:
        raise error.about(str(path)) from None


def judge(checkpoint: Checkpoint, options: Options) -> InspectReport:
    """Read the normalisation layers of an open checkpoint and run the rules on them."""
    layers = tuple(find_layers(checkpoint, Assumptions(options.eps, options.momentum)))
    network = Network(
        layers,
        shapes=_shapes(checkpoint),
        knows_modules=bool(checkpoint.modules),
        counts_batches=checkpoint.container is not Container.ONNX,
        is_program=checkpoint.container in _PROGRAMS,
        eps=options.eps,
        train_batch_size=options.train_batch_size,
    )
    rules = choose_rules(options.select, options.ignore)
    with np.errstate(all="ignore"):  # statistics at a dtype's limits overflow on the way
        findings = [finding for rule in rules for finding in rule.check(rule, network)]
    findings.sort(key=lambda finding: finding.severity.rank)
    return InspectReport(checkpoint, layers, tuple(findings))


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    lazy = checkpoint.tensors.lazy
    return {name: t.shape for name, t in lazy.items() if t.shape is not None}


def _setting_data(setting: Setting | None) -> dict[str, object]:
    if setting is None:
        return {"value": None, "source": None}
    return {"value": setting.value, "source": setting.origin.value}


def _layer_data(layer: NormLayer) -> dict[str, object]:
    return {
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
        "w2": {"eval": None, "batch": None},
        "z_share": None,
        "worst_channels": [],
    }


def _range_data(array: Array | None) -> dict[str, float] | None:
    """Minimum and maximum; NaN where the tensor has one."""
    if array is None or not array.size:
        return None
    values = array.astype("float64")
    return {"min": float(values.min()), "max": float(values.max())}
