"""One export from file to file: what `bncheck export` does, without the terminal."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.core.words import Note, as_argument, tell_all, unsaid
from bncheck.inspecting.choices import choice_notes
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint, static_findings
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.rules.static.bn401_training_mode import training_mode
from bncheck.shipping.axes import Axes, check_free, fixed_notes, traced
from bncheck.shipping.export import ExportOptions, check, export_program
from bncheck.shipping.report import ExportReport
from bncheck.shipping.samples import as_arrays
from bncheck.subject.inputs import (
    SAMPLES,
    batch_axes,
    check_inputs,
    in_order,
    inputs_of,
    no_inputs,
    part_notes,
    samples_of,
)

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from bncheck.subject.setup import Measuring


@dataclass(frozen=True)
class ExportRequest:
    """What a user asks for on the command line; `given` holds the model and the data.

    `counted` keeps those findings on the statistics that count under the project's policy.
    """

    source: Path
    output: Path
    given: Measuring
    inputs: Sequence[str] = ()
    key: str | None = None
    axes: Axes = field(default_factory=Axes)
    options: ExportOptions = field(default_factory=ExportOptions)
    force: bool = False
    part: str | None = None
    counted: Callable[[Sequence[Finding]], Sequence[Finding]] = lambda findings: findings

    @property
    def has_model(self) -> bool:
        """Whether a module is to be built or unpickled."""
        return self.given.model is not None or self.given.trust


@dataclass(frozen=True)
class _Loaded:
    """A model in eval mode, or a program, and what the rules say of it."""

    model: nn.Module | None
    program: ExportedProgram | None
    findings: Sequence[Finding]


def run(request: ExportRequest, note: Note = unsaid, say: Note = unsaid) -> ExportReport:
    """Export, unless findings stop it: then nothing is written. Raises BncheckError.

    `note` is told what is worth knowing beside the result, `say` what is being done.
    """
    from bncheck.reading.opening import open_checkpoint

    check_request(request)
    checkpoint = open_checkpoint(request.source, request.key)
    try:
        tell_all(choice_notes(checkpoint, InspectOptions(key=request.key)), note)
        with usercode.exporting():
            loaded = _loaded(request, checkpoint)
            serious = tuple(
                f for f in request.counted(loaded.findings) if f.severity is Severity.ERROR
            )
            if serious and not request.force:
                return ExportReport(findings=serious)
            for finding in serious:
                note(
                    f"{finding.rule} {finding.layer or request.source}: {finding.message} (--force)"
                )
            say("exporting")
            axes = _axes(request, loaded.model)
            program, samples = _program(request, loaded, axes)
            facts = {**request.options.facts, **_source(request.source)}
            options = replace(
                request.options, facts=facts, original=request.source, batch_axes=axes.of_batch
            )
            report = export_program(program, request.output, options, samples, say)
            notes = fixed_notes(program, axes, given=loaded.program is not None)
            if request.part is not None:
                notes = (*notes, *part_notes(request.inputs))
            return replace(report, notes=(*report.notes, *notes))
    except BncheckError as error:
        raise (error if error.subject else error.about(str(request.source))) from None


def check_request(request: ExportRequest) -> None:
    """Refuse what cannot succeed before any time is spent on it."""
    check_inputs(request.given, request.inputs)
    if request.given.device != "cpu":
        raise BncheckError(
            "--device has no effect here: the file is made on the CPU", "leave it out"
        )
    check(request.output, request.options)


def _loaded(request: ExportRequest, checkpoint: Checkpoint) -> _Loaded:
    if checkpoint.container is Container.ONNX:
        raise BncheckError(
            "is an ONNX model already",
            f"`bncheck fold {shlex.quote(as_argument(request.source))} -o OUT.onnx` folds it",
        )
    if checkpoint.container is Container.EXPORTED_PROGRAM and not request.has_model:
        from bncheck.folding.program.file import load_program

        if request.part is not None:
            raise BncheckError("--part names a submodule of a model", "give --model")
        if request.inputs:
            raise BncheckError("a .pt2 already defines its inputs", "leave --input out", "--input")
        if request.axes.batch is False:
            raise BncheckError("a .pt2 already defines its axes", "leave --static-batch out")
        findings = inspect_checkpoint(checkpoint, InspectOptions()).findings
        return _Loaded(None, load_program(request.source), findings)
    if not request.has_model:
        raise BncheckError(*_needs_model(checkpoint))
    if not request.inputs and request.given.data is None:
        raise no_inputs()
    return _module(request, checkpoint)


def _needs_model(checkpoint: Checkpoint) -> tuple[str, str]:
    hint = "give --model TARGET:CALLABLE"
    if checkpoint.modules and checkpoint.container is not Container.TORCHSCRIPT:
        return "is a pickled module", f"{hint}, or --trust to unpickle it, which runs its code"
    return "holds tensors and no program that can be exported", hint


def _module(request: ExportRequest, checkpoint: Checkpoint) -> _Loaded:
    from bncheck.inspecting.with_data import file_findings
    from bncheck.subject.module_layers import described_by
    from bncheck.subject.setup import instrumented

    subject = instrumented(request.given, checkpoint)
    model = subject.model
    layers = tuple(find_layers(checkpoint, Assumptions()))
    if any(getattr(module, "running_var", None) is not None for module in model.modules()):
        layers = described_by(layers, subject)
        findings = file_findings(checkpoint, layers, subject, InspectOptions())
    else:
        findings = static_findings(checkpoint, layers, InspectOptions())
    if request.given.model is None:  # its own flags, which were not set on purpose
        findings = [_serious(f) if training_mode.made(f) else f for f in findings]
    return _Loaded(model.eval(), None, findings)


def _serious(finding: Finding) -> Finding:
    """What is only worth knowing of a pickled module decides what an exported one computes."""
    return replace(
        finding,
        severity=Severity.ERROR,
        message=f"{finding.message}: as it is, it normalises with the batch",
        fix="save it after model.eval(), or give --force to export it as in eval()",
    )


def _axes(request: ExportRequest, model: nn.Module | None) -> Axes:
    """The axes asked for, and where the batch is; a part has the inputs that it is called with."""
    if model is None or request.part is not None:
        return request.axes
    return replace(request.axes, of_batch=batch_axes(request.given, request.inputs, model))


def _program(
    request: ExportRequest, loaded: _Loaded, axes: Axes
) -> tuple[ExportedProgram, list[Any]]:
    """The program, and samples to compare it on where there are data."""
    from bncheck.folding.program.fixed import fixed_batch

    given = request.given
    if loaded.program is not None:
        program = loaded.program
        check_free(program, axes)
        if given.data is None:
            return program, []
        module, most = program.module(), fixed_batch(program)
        samples = in_order(module, samples_of(given, module, most or SAMPLES))
        return program, as_arrays(samples, most)
    assert loaded.model is not None
    model, inputs = loaded.model, inputs_of(given, request.inputs, loaded.model)
    if request.part is not None:
        from bncheck.folding.program.calls_of import first_call

        model, inputs = first_call(model, inputs, request.part)
    program = traced(model, inputs, axes)
    used = inputs if given.data is not None else ()
    return program, as_arrays(used, fixed_batch(program))


def _source(path: Path) -> dict[str, str]:
    """The checkpoint's digest; a folder has none."""
    if not os.path.isfile(path):
        return {}
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"source.sha256": digest.hexdigest()}
