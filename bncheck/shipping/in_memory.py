"""A module or program in memory becomes an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.folding.program.calls_of import first_call
from bncheck.folding.program.exporting import as_arguments
from bncheck.inspecting.from_file import InspectOptions, static_findings
from bncheck.shipping.axes import Axes, check_free, fixed_notes, traced
from bncheck.shipping.export import ExportOptions, check, export_program
from bncheck.shipping.report import ExportReport
from bncheck.subject.given import check_runnable


def export_model(
    model: nn.Module | ExportedProgram,
    example_inputs: object,
    path: Path,
    options: ExportOptions,
    axes: Axes,
    force: bool,
    part: str | None = None,
) -> ExportReport:
    """Export, or raise BncheckError for what would make the file useless."""
    check(path, options)
    from bncheck.measuring.norms import in_eval_mode

    given = model
    with usercode.exporting():
        if isinstance(model, ExportedProgram):
            check_free(model, axes)
            program = model
        else:
            check_runnable(model)
            if not force:
                _refuse(model)
            inputs = as_arguments(example_inputs)
            if part is not None:
                with in_eval_mode(model):
                    model, inputs = first_call(model, inputs, part)
            program = _traced_in_eval(model, inputs, axes)
        report = export_program(program, path, options)
    if report.file is None:
        worst = next(f for f in report.findings if f.severity is Severity.ERROR)
        where = worst.layer or "the model"
        raise BncheckError(f"{where}: {worst.message}", worst.fix, str(path))
    notes = fixed_notes(program, axes, given=program is given)
    return replace(report, notes=(*report.notes, *notes))


def _refuse(model: nn.Module) -> None:
    from bncheck.subject.module_layers import layers_of
    from bncheck.subject.setup import in_memory

    subject = in_memory(model)
    if any(norm.module.training for norm in subject.norms):
        raise BncheckError(
            "BN401: the model is in training mode, so its BatchNorms normalise with the batch",
            "call model.eval(), or give force=True to export it as in eval()",
        )
    found: Sequence[Finding] = static_findings(None, layers_of(subject), InspectOptions())
    for finding in found:
        if finding.severity is Severity.ERROR:
            raise BncheckError(
                f"{finding.rule} {finding.layer}: {finding.message}",
                f"{finding.fix}, or give force=True",
            )


def _traced_in_eval(model: nn.Module, inputs: tuple[Any, ...], axes: Axes) -> ExportedProgram:
    from bncheck.measuring.norms import in_eval_mode

    with in_eval_mode(model):
        return traced(model, inputs, axes)


def axes_of(dynamic_batch: bool | None, dynamic: Mapping[str, Sequence[int]] | None) -> Axes:
    """From the arguments of bncheck.export."""
    return Axes(dynamic_batch, {name: tuple(axes) for name, axes in (dynamic or {}).items()})
