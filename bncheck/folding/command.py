"""One fold from file to file: what `bncheck fold` does, without the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bncheck.core import usercode
from bncheck.core.errors import BncheckError, quoted
from bncheck.core.extras import need
from bncheck.core.findings import Finding, Severity
from bncheck.core.matching import matches
from bncheck.core.words import Note, tell_all, unsaid
from bncheck.folding.planner.plan import Status
from bncheck.folding.request import Folded, FoldRequest
from bncheck.folding.result import FoldReport
from bncheck.inspecting.choices import choice_notes
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.rules.folding import fold_overflow
from bncheck.subject.inputs import check_inputs
from bncheck.writing.atomic import check_target
from bncheck.writing.outputs import check_outputs

_ENDINGS = {".pt2", ".safetensors", ".onnx"}


def run(request: FoldRequest, note: Note = unsaid) -> FoldReport:
    """Fold, compare, and write where nothing speaks against it. Raises BncheckError.

    `note` is told what is worth knowing beside the result.
    """
    from bncheck.reading.opening import open_checkpoint

    check_request(request)
    checkpoint = open_checkpoint(request.source, request.key)
    try:
        tell_all(choice_notes(checkpoint, InspectOptions(key=request.key)), note)
        with usercode.exporting():
            folded = _fold(request, checkpoint, note)
            _check_keep(request, folded.report)
            report = folded.report
            if request.output is not None and not request.dry_run and _writable(report):
                folded.write(request.output)
                report = replace(report, output=str(request.output))
            said = folded.said
            if said is None:
                said = inspect_checkpoint(checkpoint, InspectOptions()).findings
            _tell_broken(request.source, said, note)
            return report
    except BncheckError as error:
        raise (error if error.subject else error.about(str(request.source))) from None


def _fold(request: FoldRequest, checkpoint: Checkpoint, note: Note) -> Folded:
    _check_ending(request, checkpoint)
    if checkpoint.container is Container.ONNX:
        if request.parts:
            raise BncheckError("--part names a submodule of a model", "leave it out")
        if request.static_batch:
            raise BncheckError("an ONNX model already defines its axes", "leave --static-batch out")
        from bncheck.folding.onnx.from_file import fold_file

        return fold_file(request, checkpoint)
    need("torch", purpose="folding anything but an ONNX model")
    from bncheck.folding.program.from_checkpoint import fold_checkpoint

    return fold_checkpoint(request, checkpoint, note)


def check_request(request: FoldRequest) -> None:
    """Refuse what cannot succeed before any time is spent on it."""
    check_inputs(request.given, request.inputs)
    if request.given.device != "cpu":
        raise BncheckError("--device has no effect here: folding runs on the CPU", "leave it out")
    output = request.output
    if output is None:
        if request.dry_run:
            return
        raise BncheckError("-o is missing", "name the file to write, or give --dry-run")
    check_target(output)
    check_outputs([output], [request.source])


def _check_ending(request: FoldRequest, checkpoint: Checkpoint) -> None:
    """Offer those that this file can be folded into. What is another file's is explained there."""
    output = request.output
    if output is None or output.suffix in _ENDINGS:
        return
    if checkpoint.container is Container.ONNX:
        fitting = ".onnx"
    elif checkpoint.container is Container.EXPORTED_PROGRAM and not request.has_model:
        fitting = ".pt2"
    else:
        fitting = ".pt2 or .safetensors"
    raise BncheckError(f"does not end in {fitting}", "name such a file", str(output))


def _writable(report: FoldReport) -> bool:
    """Whether no finding forbids to write: BN403 keeps a BatchNorm, and the rest is sound."""
    return not any(
        f.severity is Severity.ERROR and not fold_overflow.made(f) for f in report.findings
    )


def _check_keep(request: FoldRequest, report: FoldReport) -> None:
    """A misspelt pattern would fold what the user wants to keep."""
    names = list(dict.fromkeys(decision.layer for decision in report.batchnorms))
    kept = {
        name for d in report.batchnorms if d.status is Status.KEPT for name in (d.name, d.layer)
    }
    for pattern in request.keep:
        if not any(matches(name, pattern) for name in kept):
            raise BncheckError(
                f"--keep {quoted(pattern)} matches no BatchNorm",
                f"they are {', '.join(names[:4])}{' and so on' if len(names) > 4 else ''}"
                if names
                else "there is none in it",
            )


def _tell_broken(source: Path, findings: Sequence[Finding], note: Note) -> None:
    """Statistics that make a bad model still make an exact fold, so they are only said."""
    bad = [f for f in findings if f.severity is Severity.ERROR]
    if bad:
        layers = ", ".join(sorted({f"{f.rule} {f.name}" for f in bad}))
        note(f"{source}: the statistics are broken ({layers}); `bncheck inspect` says where")
