"""A model becomes an ONNX file: fold, export, scrub, check, prove, time, write; in this order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from bncheck._version import __version__
from bncheck.core.errors import REPORT_IT, BncheckError
from bncheck.core.limits import MAX_ONNX_BYTES
from bncheck.core.words import shortened
from bncheck.folding.planner.families import Norms
from bncheck.folding.residual import Residual
from bncheck.folding.result import FoldReport
from bncheck.graph.onnx.light import light
from bncheck.rules.folding import parity_failure
from bncheck.shipping.naming import input_names, output_names
from bncheck.shipping.onnx_side import OnnxSide, port_of
from bncheck.shipping.opsets.lowering import OLDEST
from bncheck.shipping.proof import Proof, prove
from bncheck.shipping.report import ExportReport, Latency, OnnxFile, node_counts, parity_failure_of
from bncheck.shipping.scrubbing import set_metadata
from bncheck.shipping.sessions import LEVELS, Runnable, latency
from bncheck.shipping.sides import Array, CannotRun, TorchSide
from bncheck.shipping.torch_to_onnx import (
    TORCH_OLDEST,
    Converted,
    check_installed,
    opset_of,
    to_onnx,
)
from bncheck.shipping.unfolded import unfolded
from bncheck.shipping.writing import write
from bncheck.writing.atomic import check_target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What a user can set about the file. `facts` go into its metadata.

    `batch_axes` are the axes of the batch by input, where it is not the first of all.
    Its permissions are no wider than those of `original`, the checkpoint.
    """

    opset: int | None = None
    residual: Residual = Residual.CONV
    fold: bool = True
    tolerance: float | None = None
    input_names: Sequence[str] = ()
    output_names: Sequence[str] = ()
    timing: bool = True
    facts: dict[str, str] = field(default_factory=dict)
    one_file_below: int = MAX_ONNX_BYTES
    original: Path | None = None
    norms: Norms = Norms.BATCH
    batch_axes: Sequence[int | None] = ()


def check(path: Path, options: ExportOptions) -> None:
    """Refuse what cannot succeed before any time is spent on it."""
    check_installed()
    check_target(path)
    if path.suffix != ".onnx":
        raise BncheckError("does not end in .onnx", "name an .onnx file", str(path))
    for option, changed in (
        ("--norms", options.norms is not Norms.BATCH),
        ("--residual", options.residual is not Residual.CONV),
    ):
        if changed and not options.fold:
            raise BncheckError(f"--no-fold keeps every norm, whatever {option}", "leave one out")
    newest = onnx.defs.onnx_opset_version()
    if options.opset is not None and not OLDEST <= options.opset <= newest:
        raise BncheckError(
            f"--opset {options.opset} is not an opset that can be written",
            f"give {OLDEST} to {newest}",
        )


def export_program(
    program: ExportedProgram,
    path: Path,
    options: ExportOptions,
    data: Sequence[Array] = (),
    say: Say = lambda _: None,
) -> ExportReport:
    """Write the program as ONNX. Nothing is written where the result is another function.

    `data` are samples on which it is held against the original, too. Raises BncheckError.
    """
    from bncheck.folding.program.exporting import refuse_random
    from bncheck.folding.program.in_place import functional
    from bncheck.folding.program.regions import inlined

    check(path, options)
    refuse_random(program)
    names = input_names(program, options.input_names)
    outputs = output_names(program, names, options.output_names)
    plain = functional(inlined(program))
    report = ExportReport(notes=tuple(_lost(plain)))
    shipped = plain
    if options.fold:
        say("folding")
        shipped, folded = _folded(plain, program, options)
        report = replace(report, fold=folded, findings=folded.findings)
        if any(parity_failure.made(finding) for finding in folded.findings):
            return report
    say("writing ONNX")
    converted = to_onnx(shipped, names, outputs, options.opset)
    model = converted.model
    _check_model(model, options)
    side = OnnxSide(model, converted.weights)
    before = side.runnable
    if options.fold:
        before = _unfolded(converted, plain, shipped, (names, outputs), options)
    report = replace(
        report,
        inputs=tuple(map(port_of, model.graph.input)),
        outputs=tuple(map(port_of, model.graph.output)),
        before=node_counts(before.model),
        after=node_counts(model),
    )
    say("comparing")
    source = TorchSide(shipped)
    original = TorchSide(program, options.batch_axes)
    proof = prove(original, side, options.tolerance, data, source)
    del shipped, plain, source  # the file has all of it, and its weights are not kept twice
    report = replace(report, proof=proof, fold=_seen_whole(report.fold, proof))
    if not proof.holds:
        failure = parity_failure_of(proof, "the ONNX file differs from the original")
        return replace(report, findings=(*report.findings, failure))
    side.close()
    if options.timing and options.fold:
        say("timing")
        report = replace(report, latency=tuple(_timed(side.runnable, before, original)))
    set_metadata(model, {**_facts(report), **options.facts})
    done = write(model, converted.weights, path, options.one_file_below, options.original)
    beside = None if done.data is None else str(done.data)
    file = OnnxFile(str(path), opset_of(model), done.size, done.sha256, beside)
    return replace(report, file=file)


def _folded(
    plain: ExportedProgram, program: ExportedProgram, options: ExportOptions
) -> tuple[ExportedProgram, FoldReport]:
    """The fold of the program, or the plain one where it is not proven, and what was done."""
    from bncheck.folding.fold import FoldOptions
    from bncheck.folding.program.fold import fold

    asked = FoldOptions(
        (),
        options.tolerance,
        residual=options.residual,
        norms=options.norms,
        whole_too=False,
        batch_axes=options.batch_axes,
    )
    result = fold(program, None, asked)
    return (plain if result.parity is None else result.program), result.report


def _unfolded(
    converted: Converted,
    plain: ExportedProgram,
    shipped: ExportedProgram,
    names: tuple[Sequence[str], Sequence[str]],
    options: ExportOptions,
) -> Runnable:
    """The model with its BatchNorms: told from the folded one, or converted where it cannot be."""
    model = unfolded(converted.model, converted.calls, plain, shipped)
    if model is not None:
        return Runnable(model, converted.weights)
    made = to_onnx(plain, *names, _usual(options.opset))
    return Runnable(made.model, made.weights)


def _seen_whole(fold: FoldReport | None, proof: Proof) -> FoldReport | None:
    """The fold with the figures of the whole, which was compared when it had become a file."""
    if fold is None or fold.parity is None or not proof.measured:
        return fold
    return replace(fold, parity=replace(proof.measured[0], regions=fold.parity.regions))


def _lost(program: ExportedProgram) -> Iterator[str]:
    """What a file without state cannot do."""
    changed = program.graph_signature.buffers_to_mutate.values()
    if changed:
        names = ", ".join(sorted(changed)[:3])
        yield f"the model changes its buffers ({names}) at every call; an ONNX file does not"


def _usual(opset: int | None) -> int | None:
    """An opset that torch writes itself, for the model that is only looked at."""
    return None if opset is None else max(opset, TORCH_OLDEST)


def _check_model(model: onnx.ModelProto, options: ExportOptions) -> None:
    """onnx itself must accept it, shapes included."""
    try:
        onnx.checker.check_model(light(model), full_check=True)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        newer = options.opset is None and "unsupported type" in first  # bfloat16 before 22
        raise BncheckError(
            f"becomes a model that onnx.checker rejects ({shortened(first, 160)})",
            "newer operators may take that: try --opset 22" if newer else REPORT_IT,
        ) from None


def _timed(ours: Runnable, before: Runnable, side: TorchSide) -> Iterator[Latency]:
    import numpy as np

    from bncheck.shipping.sides import fresh

    arrays = fresh(side, 1, 1, np.random.default_rng(0))
    for level in LEVELS:
        with contextlib.suppress(CannotRun):
            yield Latency(level, *latency(ours, before, arrays, level))


def _facts(report: ExportReport) -> dict[str, str]:
    """What the file says about itself: bncheck.* in its metadata."""
    facts = {"version": __version__, "batchnorm_nodes": str(report.batchnorm_nodes)}
    if report.fold is not None:
        counts: Any = report.to_dict()["fold"]
        facts["fold"] = json.dumps(counts["summary"], sort_keys=True)
    if report.proof is not None:
        errors = {
            level.level: float(f"{level.parity.max_relative_error:.3g}")
            for level in report.proof.levels
            if level.parity is not None
        }
        proof = {"reference": "float64", "tolerance": report.proof.tolerance}
        facts["parity"] = json.dumps({**proof, "max_relative_error": errors}, sort_keys=True)
    return facts
