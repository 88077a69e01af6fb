"""Two files, one function? Checkpoints with their model, .pt2 and ONNX, in every combination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.extras import need
from bncheck.core.words import Note, tell_all, unsaid
from bncheck.inspecting.choices import choice_notes
from bncheck.inspecting.from_file import InspectOptions
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.shipping.proof import prove
from bncheck.shipping.report import CompareReport, compared
from bncheck.shipping.samples import as_arrays
from bncheck.shipping.sides import Array, Port, Side, TorchSide, fitted
from bncheck.subject.inputs import (
    SAMPLES,
    InputShape,
    batch_axes,
    check_inputs,
    example_inputs,
    first_samples,
    inputs_of,
    no_inputs,
    parse_input,
)

if TYPE_CHECKING:
    from torch import nn

    from bncheck.subject.setup import Measuring

#: What brings its graph along.
_PROGRAMS = (Container.ONNX, Container.EXPORTED_PROGRAM)
#: The size of a free axis that is not a batch, where the other file is all that is known of the
#: inputs.
_SIZE = 16


@dataclass(frozen=True)
class CompareRequest:
    """What a user asks for on the command line; `given` holds the model and the data.

    `part` names the submodule of the model that the other file is an export of, `names` are what
    the user calls the files, where they were piped in or downloaded.
    """

    first: Path
    second: Path
    given: Measuring
    inputs: Sequence[str] = ()
    key: str | None = None
    tolerance: float | None = None
    part: str | None = None
    names: tuple[str, str] | None = None


def run(request: CompareRequest, note: Note = unsaid, say: Note = unsaid) -> CompareReport:
    """Hold the second against the first in float64. Raises BncheckError."""
    check_inputs(request.given, request.inputs)
    if request.given.device != "cpu":
        raise BncheckError(
            "--device has no effect here: files are compared on the CPU", "leave it out"
        )
    if request.part is not None and request.given.model is None and not request.given.trust:
        raise BncheckError("--part names a submodule of a model", "give --model")
    names = request.names or (str(request.first), str(request.second))
    with usercode.exporting(), np.errstate(all="ignore"):  # an exponential may overflow to a 0
        say("opening")
        sides, samples = _sides(request, note)
        say("comparing")
        try:
            proof = prove(*sides, request.tolerance, samples)
        except BncheckError as error:
            raise (error if error.subject else error.about(names[1])) from None
    return compared(*names, proof)


def _sides(request: CompareRequest, note: Note) -> tuple[tuple[Side, Side], list[Array]]:
    """Both sides; programs first, because a module may need to know what they take."""
    from bncheck.reading.opening import open_checkpoint

    paths = (request.first, request.second)
    opened = [open_checkpoint(path, request.key) for path in paths]
    asked = InspectOptions(key=request.key)
    tell_all(dict.fromkeys(line for each in opened for line in choice_notes(each, asked)), note)
    # Where there is a module, --input is in the names and order of its forward.
    of_module = any(checkpoint.container not in _PROGRAMS for checkpoint in opened)
    shapes = [] if of_module else [parse_input(word) for word in request.inputs]
    sides = [_program_side(checkpoint, shapes) for checkpoint in opened]
    known = next((side for side in sides if side is not None), None)
    samples: list[Array] = []
    for place, side in enumerate(sides):
        if side is None:
            try:
                model, inputs = _module(request, opened[place], known)
                made = _traced_side(model, inputs, _batch_axes(request, model, known))
            except BncheckError as error:
                raise (error if error.subject else error.about(str(paths[place]))) from None
            sides[place] = made
            if request.given.data is not None:
                from bncheck.folding.program.fixed import fixed_batch

                samples = as_arrays(inputs, fixed_batch(made.program))
    if request.given.data is not None and not samples:
        samples = _samples(request, known)
    first, second = sides
    assert first is not None
    assert second is not None
    for side in (first, second) if samples else ():
        side.sized_by(samples)
    return (first, second), samples


def _program_side(checkpoint: Checkpoint, shapes: Sequence[InputShape]) -> Side | None:
    if checkpoint.container is Container.ONNX:
        from bncheck.runtime.file import open_onnx
        from bncheck.shipping.onnx_side import OnnxSide

        need("onnxruntime", purpose="comparing an ONNX model")
        return OnnxSide(*open_onnx(checkpoint.path), shapes)
    if checkpoint.container is Container.EXPORTED_PROGRAM:
        need("torch", purpose="running a .pt2")
        from bncheck.folding.program.file import load_program

        return TorchSide(load_program(checkpoint.path))
    return None


def _module(
    request: CompareRequest, checkpoint: Checkpoint, known: Side | None
) -> tuple[nn.Module, tuple[Any, ...]]:
    from bncheck.folding.program.calls_of import first_call, submodule
    from bncheck.folding.program.state_file import load_folded
    from bncheck.subject.setup import instrumented, own_model

    part = request.part
    if request.given.model is None and not request.given.trust:
        raise BncheckError(
            "holds no program, so it needs its model", "give --model TARGET:CALLABLE, or --trust"
        )
    if checkpoint.folded and request.given.model is not None:
        model = load_folded(own_model(request.given), checkpoint.path).eval()
    else:
        model = instrumented(request.given, checkpoint).model.eval()
    if request.inputs or request.given.data is not None:
        inputs = inputs_of(request.given, request.inputs, model)
        return (model, inputs) if part is None else first_call(model, inputs, part)
    if known is None:
        raise no_inputs()
    if part is not None:
        model = submodule(model, part)
    return model, example_inputs(model, [_sample_of(port) for port in known.inputs])


def _sample_of(port: Port) -> InputShape:
    dtype, place = None if "float" in port.dtype else port.dtype, _batch_axis(port)
    fixed = tuple(size for size in port.shape if isinstance(size, int))
    if len(fixed) == len(
        port.shape
    ):  # whether one axis of these is the batch, the file does not say
        return InputShape(None, fixed, dtype, exact=True)
    sizes = (*port.shape[:place], *port.shape[place + 1 :])
    known = tuple(size if isinstance(size, int) else _SIZE for size in sizes)
    return InputShape(None, known, dtype, place)


def _batch_axis(port: Port) -> int:
    """The second where it alone is free, as where time is first and fixed; else the first."""
    free = [axis for axis, size in enumerate(port.shape) if isinstance(size, str)]
    return 1 if free == [1] and port.shape[0] != 1 else 0


def _batch_axes(
    request: CompareRequest, model: nn.Module, known: Side | None
) -> tuple[int | None, ...]:
    """The axis of the batch of each input; none where it comes first."""
    if request.inputs or request.given.data is not None or known is None or request.part:
        return () if request.part else batch_axes(request.given, request.inputs, model)
    found = tuple(map(_batch_axis, known.inputs))
    return found if any(found) else ()


def _traced_side(
    model: nn.Module, inputs: tuple[Any, ...], batch_axes: tuple[int | None, ...]
) -> TorchSide:
    from bncheck.shipping.axes import Axes, traced

    return TorchSide(traced(model, inputs, Axes(of_batch=batch_axes)), batch_axes)


def _samples(request: CompareRequest, known: Side | None) -> list[Array]:
    """--data where both files are programs: by the names of their inputs, or in order."""
    assert known is not None
    batch = first_samples(request.given.batches(), SAMPLES)
    named = [batch.kwargs[p.name] for p in known.inputs if p.name in batch.kwargs]
    tensors = [*batch.args, *named]
    if len(tensors) != len(known.inputs):
        raise BncheckError(
            f"--data gives {len(tensors)} of {len(known.inputs)} inputs",
            f"they are {', '.join(port.name for port in known.inputs)}",
        )
    sizes = [p.shape[0] for p in known.inputs if p.shape and isinstance(p.shape[0], int)]
    arrays = as_arrays(tensors, min(sizes) if sizes else None)
    return fitted(known.inputs, arrays) if arrays else []
