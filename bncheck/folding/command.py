"""One fold from file to file: what `bncheck fold` does, without the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.errors import BncheckError
from bncheck.findings import Severity
from bncheck.folding.result import FoldReport
from bncheck.inputs import parse_input
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.reporting.write import check_target

if TYPE_CHECKING:
    import torch
    from torch import nn

_ENDINGS = (".pt2", ".safetensors", ".onnx")


@dataclass(frozen=True, slots=True)
class FoldRequest:
    """What a user asks for on the command line."""

    source: Path
    output: Path | None
    model: str | None = None
    model_args: Sequence[str] = ()
    inputs: Sequence[str] = ()
    key: str | None = None
    keep: Sequence[str] = ()
    tolerance: float | None = None
    dry_run: bool = False
    fail_unfolded: bool = False


def run(request: FoldRequest) -> FoldReport:
    """Fold, compare, and write where nothing speaks against it. Raises BncheckError."""
    from bncheck.reading.opening import open_checkpoint

    _check(request)
    checkpoint = open_checkpoint(request.source, request.key)
    try:
        if checkpoint.container is Container.ONNX:
            return _fold_onnx(request)
        return _fold_torch(request, checkpoint)
    except BncheckError as error:
        raise (error if error.subject else error.about(str(request.source))) from None


def _check(request: FoldRequest) -> None:
    """Refuse what cannot succeed before any time is spent on it."""
    for word in request.inputs:
        parse_input(word)
    if request.dry_run:
        return
    output = request.output
    if output is None:
        raise BncheckError("-o is missing", "name the file to write, or give --dry-run")
    if output.suffix not in _ENDINGS:
        raise BncheckError(
            f"does not end in {', '.join(_ENDINGS)}", "choose one of these", str(output)
        )
    check_target(output)
    if output.exists() and request.source.exists() and output.samefile(request.source):
        raise BncheckError("is the input itself", "name another file", str(output))


def _writable(report: FoldReport) -> bool:
    """Whether no finding forbids to write: BN403 keeps a BatchNorm, and the rest is sound."""
    return not any(f.severity is Severity.ERROR and f.rule != "BN403" for f in report.findings)


def _fold_onnx(request: FoldRequest) -> FoldReport:
    from bncheck.folding.onnx_fold import fold_onnx, save_onnx

    output = request.output
    if output is not None and output.suffix != ".onnx":
        raise BncheckError("an ONNX model is folded into an ONNX model", "give -o a .onnx file")
    report, model = fold_onnx(
        request.source,
        keep=request.keep,
        tolerance=request.tolerance,
        dry_run=request.dry_run,
        fail_unfolded=request.fail_unfolded,
    )
    if request.dry_run or output is None or not _writable(report):
        return report
    save_onnx(model, output)
    return replace(report, output=str(output))


def _fold_torch(request: FoldRequest, checkpoint: Checkpoint) -> FoldReport:
    from bncheck.folding.program_file import load_program, save_program
    from bncheck.folding.torch_fold import FoldOptions, fold

    output = request.output
    if output is not None and output.suffix == ".onnx":
        raise BncheckError(
            "fold writes an .onnx file for ONNX models only", "use `bncheck export`", str(output)
        )
    options = FoldOptions(request.keep, request.tolerance, request.fail_unfolded, request.dry_run)
    from_program = checkpoint.container is Container.EXPORTED_PROGRAM and request.model is None
    as_state = output is not None and output.suffix == ".safetensors"
    if from_program:
        if as_state:
            raise BncheckError("a .pt2 names no modules", "write a .pt2, or give --model", "-o")
        result = fold(load_program(request.source), None, options)
    else:
        model, inputs = _model_and_inputs(request, checkpoint)
        result = fold(model, inputs, options)
    report = result.report
    if request.dry_run or output is None or not _writable(report):
        return report
    if as_state:
        from bncheck.folding.state_file import save_folded

        save_folded(result, model, inputs, output, request.source)
    else:
        save_program(result.program, output)
    return replace(report, output=str(output))


def _model_and_inputs(
    request: FoldRequest, checkpoint: Checkpoint
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from bncheck.inputs import example_inputs
    from bncheck.model import load_model

    if request.model is None:
        raise BncheckError(
            "holds tensors and no program", "give --model TARGET:CALLABLE", str(request.source)
        )
    if not request.inputs:
        raise BncheckError("--input is missing", "give one sample's shape, e.g. --input 3,224,224")
    model = load_model(request.model, request.model_args, checkpoint).eval()
    return model, example_inputs(model, [parse_input(word) for word in request.inputs])
