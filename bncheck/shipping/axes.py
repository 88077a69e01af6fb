"""Which axes of an exported model may have any size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bncheck.core.errors import BncheckError
from bncheck.folding.program.sizes import fixed_size
from bncheck.shipping.sides import TorchSide
from bncheck.subject.inputs import of_one_sample

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

_DYNAMIC = re.compile(r"(\w+)=(\d+(?:,\d+)*)")


@dataclass(frozen=True)
class Axes:
    """Free axes: the first of every input (`batch`; None where possible), and `more` by input.

    `of_batch` are the axes of the batch, one for each input, where it is not the first of all; None
    for an input that has no batch.
    """

    batch: bool | None = None
    more: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    of_batch: tuple[int | None, ...] = ()

    @property
    def usual(self) -> bool:
        """Whether nothing is asked for but a free batch, where the model allows it."""
        return self.batch is not False and not self.more


def parse_axes(batch: bool | None, words: Sequence[str]) -> Axes:
    """`x=0,2,3`: axes of the input x."""
    more = {}
    for word in words:
        match = _DYNAMIC.fullmatch(word.replace(" ", ""))
        if not match:
            raise BncheckError(f"--dynamic {word!r} is not NAME=AXES", "write e.g. x=0,2,3")
        more[match[1]] = tuple(int(axis) for axis in match[2].split(","))
    return Axes(batch, more)


def traced(model: nn.Module, inputs: tuple[Any, ...], axes: Axes) -> ExportedProgram:
    """The model as a program whose axes are free as asked for. Raises BncheckError."""
    from torch.export import Dim

    from bncheck.folding.program.exporting import export_program, export_shaped, user_inputs

    if axes.usual:
        program = export_program(model, inputs, axes.of_batch)
    else:
        names = forward_names(model, len(inputs))
        places: tuple[int | None, ...] = axes.of_batch or (0,) * len(names)
        _check_names(axes, names, inputs, places)
        if axes.batch is False:
            inputs = of_one_sample(inputs, places)
            places = (None,) * len(names)
        pairs = zip(names, places, strict=False)
        free = [{*axes.more.get(name, ()), place} for name, place in pairs]
        shapes = tuple({axis: Dim.AUTO for axis in which if axis is not None} for which in free)
        program = export_shaped(model, inputs, shapes)
    values = [node.meta.get("val") for node in user_inputs(program)]
    if any(map(_pins, values)):
        only = tuple(
            dict.fromkeys(_free(getattr(value, "shape", ())), Dim.AUTO) for value in values
        )
        program = export_shaped(model, inputs, only)
    check_free(program, axes, (model, inputs))
    return program


def _pins(value: Any) -> bool:
    """Whether torch gives an axis a symbol, and then one size that it may have.

    Such an axis is fixed, but reads as free.
    """
    sizes = getattr(value, "shape", ())
    return any(not isinstance(size, int) and fixed_size(size) is not None for size in sizes)


def _free(shape: Sequence[Any]) -> list[int]:
    """The axes that may have any size."""
    return [axis for axis, size in enumerate(shape) if fixed_size(size) is None]


def forward_names(model: nn.Module, number: int) -> list[str]:
    """The parameters of forward that get the inputs, as torch.export names them."""
    import inspect

    parameters = inspect.signature(model.forward).parameters.values()
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(number - len(names))]
        else:
            names.append(parameter.name)
    return names[:number]


def _check_names(
    axes: Axes, names: Sequence[str], inputs: Sequence[torch.Tensor], batch: Sequence[int | None]
) -> None:
    for name, wanted in axes.more.items():
        if name not in names:
            raise BncheckError(
                f"--dynamic names {name!r}, which is not an input", f"they are {', '.join(names)}"
            )
        rank = inputs[names.index(name)].ndim
        if max(wanted) >= rank:
            raise BncheckError(
                f"--dynamic {name} has no axis {max(wanted)}", f"with the batch it has {rank} axes"
            )
        place = batch[names.index(name)]
        if axes.batch is False and place in wanted:
            raise BncheckError(
                f"--static-batch and --dynamic axis {place} contradict", "leave one out"
            )


def check_free(
    program: ExportedProgram, axes: Axes, made_of: tuple[nn.Module, tuple[Any, ...]] | None = None
) -> None:
    """Refuse a program that fixes an axis that the user wants free.

    It was given, or made of a model and inputs: then the line that fixes the axis is looked for.
    """
    import torch

    from bncheck.folding.program.exporting import user_inputs
    from bncheck.folding.program.fixed import who_fixes
    from bncheck.folding.program.specialising import specialising_line

    sizes = {n.name: n.meta["val"].shape for n in user_inputs(program)
             if isinstance(n.meta.get("val"), torch.Tensor)}  # fmt: skip
    asked = [(name, axis) for name, places in axes.more.items() for axis in places]
    wanted = list(asked)
    if axes.batch and axes.of_batch:
        pairs = zip(sizes, axes.of_batch, strict=False)
        wanted += [(name, axis) for name, axis in pairs if axis is not None]
    elif axes.batch:  # of a state it may be another axis
        firsts = {str(shape[0]) for shape in sizes.values() if len(shape)}
        wanted += [
            (name, 0)
            for name, shape in sizes.items()
            if len(shape) and not any(str(s) in firsts and fixed_size(s) is None for s in shape)
        ]
    for name, axis in wanted:
        shape = sizes.get(name, ())
        if axis >= len(shape):
            raise BncheckError(
                f"--dynamic {name}={axis} names no axis of an input",
                f"the inputs are {', '.join(sizes)}",
            )
        if fixed_size(shape[axis]) is not None:
            rest = [] if (name, axis) in asked else _free(shape)
            place = [node.name for node in user_inputs(program)].index(name)
            line = specialising_line(*made_of, place, axis) if made_of else ""
            raise BncheckError(
                f"axis {axis} of the input {name} cannot be dynamic: "
                f"{who_fixes(given=made_of is None)} fixes it at {shape[axis]}{line}",
                _instead(name, rest, given=made_of is None),
            )


def _instead(name: str, free: Sequence[int], *, given: bool) -> str:
    """What to do where an axis is fixed that was taken for the batch; `free` ones need no option.

    A GRU or LSTM that is not `batch_first` has the batch behind the time.
    """
    if free:
        axes = " and ".join(map(str, free))
        return (
            f"leave out --dynamic-batch: axis {axes} of {name}, the batch "
            "where time comes first, is free without it"
        )
    if given:
        return "leave the axis static, or make the .pt2 with that axis free"
    return "leave the axis static"


def fixed_notes(program: ExportedProgram, axes: Axes, *, given: bool) -> Sequence[str]:
    """What users should know of fixed axes: that one is fixed which nobody asked to fix.

    Or that `--static-batch` may have fixed the time in place of the batch.
    """
    from bncheck.folding.program.fixed import batch_notes

    if axes.batch is False:
        return _static_notes(program, axes)
    return batch_notes(program, axes.of_batch, given=given)


def _static_notes(program: ExportedProgram, axes: Axes) -> list[str]:
    """Which axis became 1, for inputs of three axes: the first of these may be the time."""
    ports = [] if axes.of_batch else TorchSide(program).inputs
    named = [port.name for port in ports if len(port.shape) == 3]
    if not named:
        return []
    return [
        f"axis 0 of {', '.join(named)} is 1, as --static-batch (dynamic_batch=False) asks: if that "
        "is the time, leave it out, or mark the batch with N, as in --input 20,N,8"
    ]
