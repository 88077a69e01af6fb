"""Example inputs of a model: from `--input 3,32,32`, the shape of one sample, or from a batch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bncheck.data import Batch, Batches
    from bncheck.subject.setup import Measuring

T = TypeVar("T")
_INPUT = re.compile(
    r"(?:([^=]+)=)?(?:((?:\d+|[Nn])(?:[,x](?:\d+|[Nn]))*)|\[((?:\d+(?:[,x]\d+)*)?)\])(?::(\w+))?"
)
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
           "bool", "complex64", "complex128")  # fmt: skip
#: Samples in an example: torch.export takes a size of 1 for one that never changes.
_BATCH = 2
#: Programs are compared on this many samples of the data.
SAMPLES = 64


@dataclass(frozen=True, slots=True)
class InputShape:
    """One input of a model: [name=]sizes[:dtype], without the batch.

    `batch` is the axis of the batch where it was marked; else it comes first. One that is `exact`
    has none: these are all of its sizes.
    """

    name: str | None
    sizes: tuple[int, ...]
    dtype: str | None
    batch: int | None = None
    exact: bool = False

    def whole(self, batch: T) -> tuple[T | int, ...]:
        """The sizes of all axes, given that of the batch."""
        if self.exact:
            return self.sizes
        place = self.batch or 0
        return (*self.sizes[:place], batch, *self.sizes[place:])

    def without_batch(self, whole: tuple[T, ...]) -> tuple[T, ...]:
        """What there is for each axis, without that for the batch."""
        if self.exact:
            return whole
        place = self.batch or 0
        return (*whole[:place], *whole[place + 1 :])


def parse_input(word: str) -> InputShape:
    """`3,32,32`, `3x32x32`, `image=3,32,32`, `tokens=128:int64`; `20,N,8` where time is first.

    `[3,32,32]` and `[]` have no batch.
    """
    match = _INPUT.fullmatch(word.replace(" ", ""))
    if not match:
        raise BncheckError(
            f"--input {word!r} is not a shape",
            "write one sample's sizes, e.g. 3,224,224; N is the batch's axis if not the first, and "
            "in brackets, as '[3,224,224]' or '[]' for a number, there is none",
        )
    if match[2] is None:
        every = tuple(map(int, re.findall(r"\d+", match[3])))
        return InputShape(match[1], every, match[4], exact=True)
    sizes = re.split("[,x]", match[2].replace("n", "N"))
    if sizes.count("N") > 1:
        raise BncheckError(f"--input {word!r} marks the batch twice", "write N once, e.g. 20,N,8")
    batch = sizes.index("N") if "N" in sizes else None
    return InputShape(match[1], tuple(int(s) for s in sizes if s != "N"), match[4], batch)


def example_inputs(model: nn.Module, shapes: Sequence[InputShape]) -> tuple[torch.Tensor, ...]:
    """Random inputs of these shapes, in the order of the model's forward."""
    import torch

    generator = torch.Generator().manual_seed(0)
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    inputs = tuple(_example(shape, own, generator) for shape in _ordered(model, shapes))
    _bound(model, inputs, {}, "--input")
    return inputs


def batch_axes(given: Measuring, words: Sequence[str], model: nn.Module) -> tuple[int | None, ...]:
    """The axis of the batch of each input, in order, None where it has no batch.

    Empty where it is the first one of all.
    """
    shapes = [parse_input(word) for word in words]
    usual = all(shape.batch is None and not shape.exact for shape in shapes)
    if given.data is not None or usual:
        return ()
    return tuple(None if s.exact else s.batch or 0 for s in _ordered(model, shapes))


def of_one_sample(
    inputs: Sequence[torch.Tensor], batch_axes: Sequence[int | None]
) -> tuple[torch.Tensor, ...]:
    """The first sample of each input that has a batch, which is the first axis if none are told."""
    axes = batch_axes or (0,) * len(inputs)
    pairs = zip(inputs, axes, strict=True)
    return tuple(t if axis is None else t.narrow(axis, 0, 1) for t, axis in pairs)


def part_notes(words: Sequence[str]) -> tuple[str, ...]:
    """What to know where `--input` marks the batch and a submodule is taken."""
    marked = any(parse_input(word).batch for word in words)
    told = (
        "N of --input is the batch of the model; of a part's inputs the first axis is taken for it"
    )
    return (told,) if marked else ()


def _ordered(model: nn.Module, shapes: Sequence[InputShape]) -> list[InputShape]:
    """The shapes in the order of the arguments of the model's forward. Raises BncheckError."""
    names = list(inspect.signature(model.forward).parameters)
    placed: dict[int, InputShape] = {}
    for place, shape in enumerate(shapes):
        if shape.name is not None and shape.name not in names:
            raise BncheckError(
                f"--input names {shape.name!r}, which the model's forward does not take",
                f"it takes {', '.join(names[:8])}",
            )
        where = place if shape.name is None else names.index(shape.name)
        if where in placed:
            raise BncheckError("--input gives an input of the model twice", "name all of them")
        placed[where] = shape
    if sorted(placed) != list(range(len(placed))):
        raise BncheckError("--input leaves out an input of the model", "give them in order")
    return [placed[place] for place in sorted(placed)]


def batch_inputs(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
    """A batch's inputs in the order of the model's forward, at least two samples of them."""
    inputs = in_order(model, batch)
    if batch.size == 1:
        return tuple(tensor.repeat(_BATCH, *[1] * (tensor.ndim - 1)) for tensor in inputs)
    return inputs


def check_inputs(given: Measuring, words: Sequence[str]) -> None:
    """Refuse a misspelt --input, or one beside --data, before any time is spent on it."""
    for word in words:
        parse_input(word)
    if words and given.data is not None:
        raise BncheckError("--input and --data exclude each other", "give one of them")


def no_inputs() -> BncheckError:
    """The error where neither --input nor --data is given."""
    return BncheckError(
        "--input or --data is missing",
        "give one sample's shape, e.g. --input 3,224,224, or samples",
    )


def inputs_of(given: Measuring, words: Sequence[str], model: nn.Module) -> tuple[torch.Tensor, ...]:
    """What --data or else --input gives."""
    if given.data is None:
        return example_inputs(model, [parse_input(word) for word in words])
    return batch_inputs(model, samples_of(given, model, SAMPLES))


def samples_of(given: Measuring, model: nn.Module, most: int) -> Batch:
    """The first samples of the data, which the model is seen to accept."""
    import torch

    from bncheck.measuring.forward import forward, prepared

    fitted = prepared(model, first_samples(given.batches(), most), 0, "cpu")
    with torch.no_grad():
        forward(model, fitted, 0)
    return fitted


def first_samples(data: Batches, most: int) -> Batch:
    """The first batch, cut to so many samples."""
    cut = replace(data, max_samples=most)
    batch = next((batch for batch in cut if batch.size), None)
    if batch is None:
        raise BncheckError("gives no samples", "check the data", data.name)
    return batch


def in_order(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
    """A batch's inputs in the order of the model's forward."""
    return _bound(model, batch.args, batch.kwargs, "--data")


def _bound(
    model: nn.Module, args: Sequence[torch.Tensor], named: Mapping[str, torch.Tensor], option: str
) -> tuple[torch.Tensor, ...]:
    """The arguments by position, or one line that says which of them do not fit."""
    signature = inspect.signature(model.forward)
    for parameter in signature.parameters.values():
        needed = parameter.default is parameter.empty or parameter.name in named
        if parameter.kind is parameter.KEYWORD_ONLY and needed:
            raise BncheckError(
                f"the model's forward takes {parameter.name!r} by keyword only, and an exported "
                "program takes its inputs by position",
                "name a module with --model that wraps it and takes them in order",
            )
    try:
        bound = signature.bind(*args, **named)
    except TypeError as error:
        raise BncheckError(
            f"{option} does not fit the model's forward ({error})", takes(signature)
        ) from None
    by_name = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    if by_name & set(bound.kwargs):
        raise BncheckError(f"{option} does not fit the model's forward", takes(signature))
    if bound.kwargs:
        raise BncheckError(
            f"{option} gives {next(iter(bound.kwargs))!r}, but not all inputs before it",
            "give the model's inputs by position",
        )
    return bound.args


def takes(signature: inspect.Signature) -> str:
    """What to do about inputs that do not fit, as a hint."""
    given = signature.parameters.values()
    named = [p.name for p in given if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if named:
        return (
            f"{', '.join(named)} can only be given by name, and inputs are given by position: wrap "
            "the model in a module whose forward passes them on"
        )
    return f"it takes {', '.join(signature.parameters) or 'nothing'}"


def _example(shape: InputShape, own: torch.dtype, generator: Any) -> torch.Tensor:
    import torch

    if shape.dtype is not None and shape.dtype not in _DTYPES:
        raise BncheckError(
            f"--input has the unknown dtype {shape.dtype!r}", f"choose from {', '.join(_DTYPES)}"
        )
    dtype: torch.dtype = own if shape.dtype is None else getattr(torch, shape.dtype)
    values = torch.randn(shape.whole(_BATCH), generator=generator)
    if dtype.is_floating_point or dtype.is_complex:
        return values.to(dtype)
    return torch.zeros_like(values).to(dtype)
