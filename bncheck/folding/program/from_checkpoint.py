"""`bncheck fold` of a checkpoint with its module, or of a .pt2 file."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from bncheck.core.errors import BncheckError
from bncheck.core.words import Note, as_argument
from bncheck.folding.program.exporting import user_inputs
from bncheck.folding.program.file import load_program, moved, save_program
from bncheck.folding.program.fold import FoldResult, fold
from bncheck.folding.program.parts import BY_PARTS, PartsResult, fold_model
from bncheck.folding.program.state_file import save_folded, save_state
from bncheck.folding.request import (
    CORRUPT,
    Folded,
    FoldRequest,
    findings_of_file,
    refuse_corrupt,
)
from bncheck.inspecting.from_file import InspectOptions, static_findings
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.rules.static.bn104_missing_statistics import missing_statistics as rule
from bncheck.subject.inputs import (
    SAMPLES,
    batch_axes,
    in_order,
    inputs_of,
    no_inputs,
    of_one_sample,
    part_notes,
    samples_of,
)
from bncheck.subject.model import missing_statistics
from bncheck.subject.module_layers import layers_of
from bncheck.subject.setup import checked_device, instrumented


def fold_checkpoint(request: FoldRequest, checkpoint: Checkpoint, note: Note) -> Folded:
    """Fold the file of a request, which is open. Raises BncheckError."""
    output = request.output
    if request.freeze_inputs:
        raise BncheckError("--freeze-inputs is for ONNX models", "leave it out")
    if output is not None and output.suffix == ".onnx":
        raise BncheckError(
            "is ONNX, which fold writes for ONNX models only",
            f"`bncheck export {shlex.quote(as_argument(request.source))} ... -o "
            f"{shlex.quote(str(output))}` folds and exports; or give -o a .pt2 file",
            str(output),
        )
    checked_device(request.given.device)
    if request.static_batch:
        _check_static(request)
    if request.parts and not request.has_model:
        raise BncheckError("--part names a submodule of a model", "give --model, or leave it out")
    if checkpoint.container is Container.EXPORTED_PROGRAM and not request.has_model:
        return _fold_program(request, checkpoint)
    return _fold_module(request, _model(request, checkpoint, note))


def _check_static(request: FoldRequest) -> None:
    """Only a program that is made here gets another batch."""
    if not request.has_model:
        raise BncheckError("a .pt2 already defines its axes", "leave --static-batch out")
    if request.parts or (request.output is not None and request.output.suffix == ".safetensors"):
        raise BncheckError("--static-batch is for a .pt2 of the whole model", "leave it out")


def _fold_module(request: FoldRequest, model: nn.Module) -> Folded:
    inputs = inputs_of(request.given, request.inputs, model)
    more = [inputs] if request.given.data is not None else []
    held = request.output is not None and request.output.suffix == ".safetensors"
    axes = batch_axes(request.given, request.inputs, model)
    options = replace(request.options, batch_axes=axes, static_batch=request.static_batch)
    if request.static_batch:
        inputs = of_one_sample(inputs, axes)
        more = [inputs] if more else []
    result = fold_model(model, inputs, options, more, request.parts, held)
    report = result.report
    if isinstance(result, PartsResult):
        report = replace(report, notes=(*report.notes, *part_notes(request.inputs)))
    if not held and not isinstance(result, PartsResult):
        return Folded(report, _saving(result, request))

    def write(path: Path) -> None:
        if not isinstance(result, PartsResult):
            save_folded(result, model, inputs, path, request.source)
        elif held:
            save_state(result.state, result.report, path, request.source)
        else:
            raise BncheckError(*BY_PARTS, "-o")

    return Folded(report, write)


def _saving(result: FoldResult, request: FoldRequest) -> Callable[[Path], None]:
    """What writes the program. It does not hold on to the original, whose memory is then free."""
    program = moved(result.program, request.given.device)
    return lambda path: save_program(program, path, request.source)


def _fold_program(request: FoldRequest, checkpoint: Checkpoint) -> Folded:
    """A .pt2 brings its graph along."""
    if request.output is not None and request.output.suffix == ".safetensors":
        raise BncheckError(
            "a .pt2 does not name its modules", "write a .pt2, or give --model", "-o"
        )
    if request.inputs:
        raise BncheckError("a .pt2 already defines its inputs", "leave --input out", "--input")
    said = findings_of_file(checkpoint)
    program = load_program(request.source)
    more = []
    if request.given.data is not None:
        sizes = [size for node in user_inputs(program)[:1] for size in node.meta["val"].shape]
        fixed = sizes and isinstance(sizes[0], int)  # a batch of another size is refused
        module = program.module()
        batch = samples_of(request.given, module, sizes[0] if fixed else SAMPLES)
        more = [in_order(module, batch)]
    result = fold(program, None, request.options, more)
    return Folded(result.report, _saving(result, request), said)


def _model(request: FoldRequest, checkpoint: Checkpoint, note: Note) -> nn.Module:
    """The model in eval mode, with statistics that are worth folding."""

    if not request.has_model:
        raise BncheckError(*_needs_model(checkpoint))
    if not request.inputs and request.given.data is None:
        raise no_inputs()
    # On the CPU whatever --device says: the float64 reference needs a device that has float64.
    subject = instrumented(replace(request.given, device="cpu"), checkpoint)
    model = subject.model
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
    refuse_corrupt(static_findings(None, layers_of(subject), InspectOptions(select=CORRUPT)))
    return model.eval()


def _needs_model(checkpoint: Checkpoint) -> tuple[str, str]:
    hint = "give --model TARGET:CALLABLE"
    if checkpoint.container is Container.TORCHSCRIPT:
        return "is TorchScript, which fold does not rewrite", f"{hint}, and its tensors are taken"
    if checkpoint.modules:
        return "is a pickled module", f"{hint}, or --trust to unpickle it, which runs its code"
    return "holds tensors and no program", hint
