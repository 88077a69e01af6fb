"""New running statistics for old weights, kept only if they help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError
from bncheck.core.words import Note, count, shortened, tell_all, unsaid
from bncheck.inspecting.choices import choice_notes
from bncheck.inspecting.from_file import InspectOptions
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.measuring.distributed import Processes
from bncheck.measuring.instrumented import Instrumented
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.reading.kinds import NormKind
from bncheck.reading.opening import open_checkpoint
from bncheck.recalibrating.formula import repair_without_data
from bncheck.recalibrating.report import RecalibrationReport
from bncheck.recalibrating.values import buffers_of, values_in_file
from bncheck.recalibrating.with_data import recalibrate_with_data
from bncheck.subject.model import missing_statistics
from bncheck.subject.module_layers import described_by, layers_of, unused_eps
from bncheck.subject.setup import Measuring, in_memory, instrumented
from bncheck.writing.outputs import check_outputs

if TYPE_CHECKING:
    from torch import nn

#: Layouts whose numbers cannot be replaced in place.
_NO_COPY: Final = (Container.ONNX, Container.PICKLE)
#: Endings that promise a format, and the containers that are one file each.
_PROMISED: Final = {
    ".onnx": Container.ONNX, ".safetensors": Container.SAFETENSORS, ".npz": Container.NPZ,
    ".pt2": Container.EXPORTED_PROGRAM,
}  # fmt: skip
_ONE_FILE: Final = (
    Container.TORCH_ZIP, Container.TORCH_LEGACY, Container.TORCHSCRIPT, *_PROMISED.values(),
)  # fmt: skip


def recalibrate_file(
    path: Path,
    out: Path,
    options: InspectOptions,
    measuring: Measuring | None,
    ranks: Processes | None = None,
    note: Note = unsaid,
) -> RecalibrationReport:
    """Recalibrate a checkpoint; `out` is a copy in which only the BatchNorm buffers differ.

    Without `measuring`, the data-free repair of under-warmed averages. Of several `ranks` the first
    writes, once all have come as far.
    """
    ranks = ranks or Processes()
    with ranks.together("the measuring"):
        checkpoint = open_checkpoint(path, options.key)
        report = _recalibrated(checkpoint, out, options, measuring, note)
        if measuring is None:
            ranks.agree_on_report(report.to_dict)
    if report.reason is not None or ranks.rank:
        return report
    from bncheck.writing.patch import write_copy
    from bncheck.writing.sharing import shared_elsewhere

    values = values_in_file(report, checkpoint)
    write_copy(checkpoint, values, out)
    shared = tuple(shared_elsewhere(checkpoint, values))
    if shared:
        others = f"{shortened(shared[0])}{f' and {len(shared) - 1} more' if shared[1:] else ''}"
        note(f"{out}: {others} changed as well: the file stores them in the same bytes")
    return replace(report, written=out, also_changed=shared)


def _recalibrated(
    checkpoint: Checkpoint,
    out: Path,
    options: InspectOptions,
    measuring: Measuring | None,
    note: Note,
) -> RecalibrationReport:
    path = Path(checkpoint.path)
    if checkpoint.container in _NO_COPY:
        raise BncheckError(
            f"is {checkpoint.container.value}, a format in which bncheck cannot write a "
            "repaired copy",
            "recalibrate the checkpoint it was made from, and convert it again",
            str(path),
        )
    check_outputs([out], [path])
    _check_ending(out, path, checkpoint.container)
    try:
        tell_all(choice_notes(checkpoint, options), note)
        layers = tuple(find_layers(checkpoint, Assumptions(options.eps, options.momentum)))
    except BncheckError as error:
        raise error.about(str(path)) from None
    if any(layer.kind is NormKind.RENORM for layer in layers):
        raise BncheckError(
            "keeps standard deviations (Batch Renormalization), which recalibrate does not write",
            "run some batches in train() with r_max=1 and d_max=0",
            str(path),
        )
    if measuring is None:
        report = repair_without_data(checkpoint, layers, options.thresholds)
    else:
        subject = instrumented(measuring, checkpoint)
        if not measuring.force:
            _refuse_lacking(subject, checkpoint)
        described = described_by(layers, subject)
        tell_all(unused_eps(layers, described, options.eps), note)
        report = recalibrate_with_data(subject, described, measuring, options)
    return replace(report, path=path)


def _refuse_lacking(subject: Instrumented, checkpoint: Checkpoint) -> None:
    """What the file lacks is a fault (BN104), and not one that a copy can repair."""
    names = [subject.file_name(name) for name in missing_statistics(subject.model, checkpoint)]
    if names:
        others = f" and {count(len(names) - 1, 'other layer')}" if names[1:] else ""
        raise BncheckError(
            f"lacks running statistics of {shortened(names[0])}{others} (BN104), and a copy cannot "
            "hold tensors that the file lacks",
            "save the whole state dict, buffers too; in Python bncheck.recalibrate measures them",
            str(checkpoint.path),
        )


def _check_ending(out: Path, path: Path, container: Container) -> None:
    """Refuse a name that promises another format than that of the copy, which is the input's."""
    ending = out.suffix.lower()
    promised = _PROMISED.get(ending)
    if promised not in (None, container) and container in _ONE_FILE and ending != path.suffix:
        raise BncheckError(
            f"ends in {ending}, and the copy is {container.value}, as {path.name} is",
            f"let it end in {path.suffix or '.pt'}",
            str(out),
        )


def recalibrate_module(
    model: nn.Module, options: InspectOptions, measuring: Measuring
) -> RecalibrationReport:
    """Recalibrate a module in memory; the module is left as it was."""
    subject = in_memory(model)
    report = recalibrate_with_data(subject, layers_of(subject), measuring, options)
    return replace(report, buffers=buffers_of(model, report))
