"""One fold from file to file: what `bncheck fold` does, without the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase as fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.core.words import Note, tell_all, unsaid
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.plan import Status
from bncheck.folding.result import FoldReport
from bncheck.inspecting.choices import choice_notes
from bncheck.inspecting.from_file import Options, judge, static_findings
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.rules.folding import fold_overflow
from bncheck.rules.static.bn102_non_finite import non_finite
from bncheck.rules.static.bn103_negative_variance import negative_variance
from bncheck.subject.inputs import SAMPLES, check_inputs, in_order, inputs_of, samples_of
from bncheck.writing.atomic import check_target

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bncheck.folding.program.fold import FoldResult
    from bncheck.subject.setup import Measuring

_ENDINGS = (".pt2", ".safetensors", ".onnx")
#: Statistics that are no statistics; what a fold makes of them would be nonsense.
_CORRUPT = (non_finite.code, negative_variance.code)


@dataclass(frozen=True)
class FoldRequest:
    """What a user asks for on the command line; `given` holds the model and the data."""

    source: Path
    output: Path | None
    given: Measuring
    inputs: Sequence[str] = ()
    key: str | None = None
    keep: Sequence[str] = ()
    tolerance: float | None = None
    dry_run: bool = False
    fail_unfolded: bool = False
    freeze_inputs: bool = False

    @property
    def options(self) -> FoldOptions:
        """What the fold itself is told."""
        return FoldOptions(self.keep, self.tolerance, self.fail_unfolded, self.dry_run)

    @property
    def has_model(self) -> bool:
        """Whether a module is to be built or unpickled."""
        return self.given.model is not None or self.given.trust


def run(request: FoldRequest, note: Note = unsaid) -> FoldReport:
    """Fold, compare, and write where nothing speaks against it. Raises BncheckError.

    `note` is told what is worth knowing beside the result.
    """
    from bncheck.reading.opening import open_checkpoint

    _check(request)
    checkpoint = open_checkpoint(request.source, request.key)
    try:
        tell_all(choice_notes(checkpoint, Options(key=request.key)), note)
        with usercode.exporting():
            if checkpoint.container is Container.ONNX:
                report = _fold_onnx(request, checkpoint)
            else:
                report = _fold_torch(request, checkpoint, note)
            _tell_broken(request.source, judge(checkpoint, Options()).findings, note)
            return report
    except BncheckError as error:
        raise (error if error.subject else error.about(str(request.source))) from None


def _check(request: FoldRequest) -> None:
    """Refuse what cannot succeed before any time is spent on it."""
    check_inputs(request.given, request.inputs)
    output = request.output
    if output is None:
        if request.dry_run:
            return
        raise BncheckError("-o is missing", "name the file to write, or give --dry-run")
    if output.suffix not in _ENDINGS:
        raise BncheckError(
            f"does not end in {', '.join(_ENDINGS)}", "choose one of these", str(output)
        )
    check_target(output)
    if output.exists() and os.path.exists(request.source) and output.samefile(request.source):
        raise BncheckError("is the input itself", "name another file", str(output))


def _writable(report: FoldReport) -> bool:
    """Whether no finding forbids to write: BN403 keeps a BatchNorm, and the rest is sound."""
    return not any(
        f.severity is Severity.ERROR and not fold_overflow.made(f) for f in report.findings
    )


def _check_keep(request: FoldRequest, report: FoldReport) -> None:
    """A misspelt pattern would fold what the user wants to keep."""
    names = [decision.name for decision in report.batchnorms]
    for pattern in request.keep:
        if not any(d.status is Status.KEPT and fnmatch(d.name, pattern) for d in report.batchnorms):
            raise BncheckError(
                f"--keep {pattern!r} matches no BatchNorm",
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


def _refuse_corrupt(findings: Sequence[Finding]) -> None:
    """One line for statistics with which the model computes nothing worth folding."""
    bad = [f for f in findings if f.rule in _CORRUPT and f.severity is Severity.ERROR]
    if not bad:
        return
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise BncheckError(
        f"{bad[0].rule} {bad[0].name}: {bad[0].layer or 'the norm'}: {bad[0].message}{more}",
        "mend it first; `bncheck inspect` says more",
    )


def _fold_onnx(request: FoldRequest, checkpoint: Checkpoint) -> FoldReport:
    from bncheck.folding.onnx.fold import fold_onnx, save_onnx
    from bncheck.folding.onnx.samples import samples_for

    output = request.output
    if output is not None and output.suffix != ".onnx":
        raise BncheckError("an ONNX model is folded into an ONNX model", "give -o a .onnx file")
    given = request.given
    for option, value in (
        ("--model", given.model),
        ("--trust", given.trust),
        ("--input", request.inputs),
        ("--device", given.device != "cpu"),
    ):
        if value:
            raise BncheckError(f"{option} has nothing to act on in an ONNX model", "leave it out")
    _refuse_corrupt(judge(checkpoint, Options(select=_CORRUPT)).findings)
    with np.errstate(all="ignore"):  # a sigmoid may overflow on its way to 0
        report, model = fold_onnx(
            request.source,
            request.options,
            freeze_inputs=request.freeze_inputs,
            samples=None if given.data is None else partial(samples_for, given.batches()),
        )
    _check_keep(request, report)
    if request.dry_run or output is None or not _writable(report):
        return report
    save_onnx(model, output, request.source)
    return replace(report, output=str(output))


def _fold_torch(request: FoldRequest, checkpoint: Checkpoint, note: Note) -> FoldReport:
    from bncheck.folding.program.fold import fold
    from bncheck.subject.setup import checked_device

    output = request.output
    if request.freeze_inputs:
        raise BncheckError("--freeze-inputs is for ONNX models", "leave it out")
    if output is not None and output.suffix == ".onnx":
        raise BncheckError(
            "fold writes an .onnx file for ONNX models only", "give -o a .pt2 file", str(output)
        )
    checked_device(request.given.device)
    options = request.options
    if checkpoint.container is Container.EXPORTED_PROGRAM and not request.has_model:
        return _written(request, _fold_program(request, checkpoint, options))
    model = _model(request, checkpoint, note)
    inputs = inputs_of(request.given, request.inputs, model)
    more = [inputs] if request.given.data is not None else []
    result = fold(model, inputs, options, more)
    return _written(request, result, model, inputs)


def _fold_program(request: FoldRequest, checkpoint: Checkpoint, options: FoldOptions) -> FoldResult:
    """A .pt2 brings its graph along."""
    from bncheck.folding.program.exporting import user_inputs
    from bncheck.folding.program.file import load_program
    from bncheck.folding.program.fold import fold

    if request.output is not None and request.output.suffix == ".safetensors":
        raise BncheckError("a .pt2 names no modules", "write a .pt2, or give --model", "-o")
    if request.inputs:
        raise BncheckError("a .pt2 knows its inputs", "leave --input out", "--input")
    _refuse_corrupt(judge(checkpoint, Options(select=_CORRUPT)).findings)
    program = load_program(request.source)
    if request.given.data is None:
        return fold(program, None, options)
    sizes = [size for node in user_inputs(program)[:1] for size in node.meta["val"].shape]
    fixed = sizes and isinstance(sizes[0], int)  # a batch of another size is refused
    module = program.module()
    batch = samples_of(request.given, module, sizes[0] if fixed else SAMPLES)
    return fold(program, None, options, [in_order(module, batch)])


def _written(
    request: FoldRequest,
    result: FoldResult,
    model: nn.Module | None = None,
    inputs: tuple[torch.Tensor, ...] = (),
) -> FoldReport:
    """The report, with the file where one was asked for and nothing forbids it."""
    output, report = request.output, result.report
    _check_keep(request, report)
    if request.dry_run or output is None or not _writable(report):
        return report
    if output.suffix == ".safetensors":
        from bncheck.folding.program.state_file import save_folded

        assert model is not None
        save_folded(result, model, inputs, output, request.source)
    else:
        from bncheck.folding.program.file import moved, save_program

        save_program(moved(result.program, request.given.device), output, request.source)
    return replace(report, output=str(output))


def _model(request: FoldRequest, checkpoint: Checkpoint, note: Note) -> nn.Module:
    """The model in eval mode, with statistics that are worth folding."""
    from bncheck.rules.static.bn104_missing_statistics import missing_statistics as rule
    from bncheck.subject.model import missing_statistics
    from bncheck.subject.module_layers import layers_of
    from bncheck.subject.setup import module_for

    if not request.has_model:
        raise BncheckError(*_needs_model(checkpoint))
    if not request.inputs and request.given.data is None:
        raise BncheckError(
            "--input or --data is missing",
            "give one sample's shape, e.g. --input 3,224,224, or samples",
        )
    # On the CPU whatever --device says: the float64 reference needs a device that has float64.
    model, _ = module_for(replace(request.given, device="cpu"), checkpoint)
    if request.given.model is None:
        if model.training:
            note(f"{request.source}: was saved in training mode, and is folded as in eval()")
    else:
        missing = missing_statistics(model, checkpoint)
        if missing:
            more = f" and {len(missing) - 1} more layers" if len(missing) > 1 else ""
            raise BncheckError(
                f"{rule.code} {rule.name}: {missing[0] or 'the norm'}{more}: the model has running "
                "statistics here, and the file has none",
                "save the whole state dict, buffers too",
            )
    if any(getattr(module, "running_var", None) is not None for module in model.modules()):
        _refuse_corrupt(static_findings(None, layers_of(model), Options(select=_CORRUPT)))
    return model.eval()


def _needs_model(checkpoint: Checkpoint) -> tuple[str, str]:
    hint = "give --model TARGET:CALLABLE"
    if checkpoint.container is Container.TORCHSCRIPT:
        return "is TorchScript, which fold does not rewrite", f"{hint}, and its tensors are taken"
    if checkpoint.modules:
        return "is a pickled module", f"{hint}, or --trust to unpickle it, which runs its code"
    return "holds tensors and no program", hint
