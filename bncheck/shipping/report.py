"""What an export reports, and what a comparison does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx

from bncheck._version import __version__
from bncheck.core.findings import Finding, Severity
from bncheck.core.report import Report
from bncheck.folding.result import FoldReport
from bncheck.reading.onnx_file import graphs_of
from bncheck.shipping.proof import Proof
from bncheck.shipping.sides import Port


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The file that was written; `data` beside it where one file could not hold it."""

    path: str
    opset: int
    bytes: int
    sha256: str
    data: str | None = None

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {
            "path": self.path,
            "opset": self.opset,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "data": self.data,
        }


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds a run at one level: of the file, and of the same model with its BatchNorms."""

    level: str
    folded_ms: float
    unfolded_ms: float

    @property
    def ratio(self) -> float:
        """Below 1 where the file is quicker."""
        return self.folded_ms / self.unfolded_ms

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {
            "level": self.level,
            "folded_ms": self.folded_ms,
            "unfolded_ms": self.unfolded_ms,
            "ratio": self.ratio,
        }


@dataclass(frozen=True, repr=False)
class ExportReport(Report):
    """One export. `file` is None where nothing was written, and the findings say why."""

    command: ClassVar = "export"

    file: OnnxFile | None = None
    findings: tuple[Finding, ...] = ()
    fold: FoldReport | None = None
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    before: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)
    proof: Proof | None = None
    latency: tuple[Latency, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def stopped(self) -> bool:
        """Whether findings on the statistics kept it from being made at all."""
        return self.fold is None and self.proof is None

    @property
    def batchnorm_nodes(self) -> int | None:
        """How many BatchNormalizations are left; None before there was a graph."""
        return self.after.get("BatchNormalization", 0) if self.after else None

    def rows(self) -> list[dict[str, Any]]:
        """A normalisation a row: what became of it."""
        return self.fold.rows() if self.fold else []

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.export/1 of its JSON."""
        return {
            "schema": "bncheck.export/1",
            "bncheck": __version__,
            "onnx": self.file.to_dict() if self.file else None,
            "batchnorm_nodes": self.batchnorm_nodes,
            "inputs": [port.to_dict() for port in self.inputs],
            "outputs": [port.to_dict() for port in self.outputs],
            "nodes": {"before": dict(self.before), "after": dict(self.after)},
            "parity": [level.to_dict() for level in self.proof.levels] if self.proof else [],
            "values": [step.to_dict() for step in self.proof.steps] if self.proof else [],
            "latency": [timed.to_dict() for timed in self.latency],
            "fold": self._fold(),
            "findings": [finding.to_dict() for finding in self.findings],
            "notes": list(self.notes),
        }

    def _fold(self) -> dict[str, object] | None:
        if self.fold is None:
            return None
        data = self.fold.to_dict()
        kept = ("batchnorms", "parity", "flushed_subnormals", "kinds", "modules")
        counts = {
            "total": len(self.fold.batchnorms),
            "folded": self.fold.folded,
            "rewritten": self.fold.rewritten,
            "kept": len(self.fold.kept),
        }
        return {key: data[key] for key in kept} | {"summary": counts}


@dataclass(frozen=True, repr=False)
class CompareReport(Report):
    """Whether two files are one function."""

    command: ClassVar = "compare"
    asks: ClassVar = ("BN404",)

    first: str
    second: str
    proof: Proof
    findings: tuple[Finding, ...] = ()

    @property
    def equal(self) -> bool:
        """Within the tolerance, in every way to run the second."""
        return self.proof.holds

    def rows(self) -> list[dict[str, Any]]:
        """A way to run the second file a row."""
        return [level.to_dict() for level in self.proof.levels]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.compare/1 of its JSON."""
        batches = dict.fromkeys(b for parity in self.proof.measured for b in parity.batches)
        shares = [p.argmax_agreement for p in self.proof.measured if p.argmax_agreement is not None]
        return {
            "schema": "bncheck.compare/1",
            "bncheck": __version__,
            "first": self.first,
            "second": self.second,
            "equal": self.equal,
            "max_relative_error": self.proof.worst,
            "tolerance": self.proof.tolerance,
            "first_difference": self.proof.parts_at,
            "argmax_agreement": min(shares, default=None),
            "batches": list(batches),
            "levels": [level.to_dict() for level in self.proof.levels],
            "values": [step.to_dict() for step in self.proof.steps],
        }


def compared(first: str, second: str, proof: Proof) -> CompareReport:
    """The report of a comparison, with BN404 where the two are not one function."""
    failure = () if proof.holds else (parity_failure_of(proof, f"differs from {first}"),)
    return CompareReport(first, second, proof, failure)


def parity_failure_of(proof: Proof, sentence: str) -> Finding:
    """BN404 with the proof's figures; `sentence` says which files differ."""
    from bncheck.rules.folding import parity_failure

    figures = f"by {proof.worst:.2g} (tolerance {proof.tolerance:.2g})"
    unknown = "nothing installed here can run it, so its parity is unknown"
    return parity_failure.finding(
        Severity.ERROR,
        proof.parts_at,
        f"{sentence} {figures}" if proof.measured else unknown,
        "look at the layer where they diverge",
        max_relative_error=proof.worst,
        tolerance=proof.tolerance,
    )


def node_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each type, the most frequent first; those in branches, too."""
    counts = Counter(node.op_type for graph in graphs_of(model.graph) for node in graph.node)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
