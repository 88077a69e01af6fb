"""What an ONNX model takes: its inputs, their free axes, and values of any sizes for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bncheck.core.errors import BncheckError
from bncheck.runtime.file import user_inputs
from bncheck.subject.inputs import InputShape

#: By the names of the model's inputs.
Named = dict[str, Any]
#: The sizes of free axes, by the axes' names.
Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Input:
    """An input that a caller must give. A free axis is a name: its symbol, or a name of its own."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]
    #: Whether the model says how many axes it has.
    ranked: bool = True
    #: Others are sequences, maps or optional.
    is_tensor: bool = True

    def sized(self, sizes: Sizes) -> tuple[int, ...]:
        """Its shape with these sizes for its free axes."""
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.shape)


def inputs_of(
    model: onnx.ModelProto, shapes: Sequence[InputShape] = (), sample: Named | None = None
) -> tuple[Input, ...]:
    """The inputs in their order. Converters write -1 and 0 for sizes that are free.

    One that does not say how many axes it has gets those of `sample`, or of its shape in `shapes`,
    and a free first axis for the number of samples.
    """
    inputs = tuple(map(_input, user_inputs(model)))
    given = {_named(inputs, s, place).name: s for place, s in enumerate(shapes)}
    given |= {
        name: InputShape(name, array.shape[1:], None)
        for name, array in (sample or {}).items()
        if array.ndim
    }
    return tuple(
        replace(
            each,
            shape=given[each.name].whole(f"{each.name}.{given[each.name].batch or 0}"),
            ranked=True,
        )
        if not each.ranked and each.name in given
        else each
        for each in inputs
    )


def _input(info: onnx.ValueInfoProto) -> Input:
    kind = info.type.tensor_type
    shape = [
        int(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or f"{info.name}.{axis}"
        for axis, dim in enumerate(kind.shape.dim)
    ]
    if not kind.elem_type:
        return Input(info.name, np.dtype(object), (), ranked=False, is_tensor=False)
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return Input(info.name, dtype, tuple(shape), kind.HasField("shape"))


def free_axes(inputs: Sequence[Input]) -> list[str]:
    """The names of the free axes in the order in which they come."""
    return list(dict.fromkeys(s for given in inputs for s in given.shape if isinstance(s, str)))


def batch_axes(inputs: Sequence[Input]) -> list[str]:
    """The free ones that are the first of an input: the number of samples."""
    firsts = [given.shape[0] for given in inputs if given.shape]
    return list(dict.fromkeys(size for size in firsts if isinstance(size, str)))


def invented(inputs: Sequence[Input], sizes: Sizes, generator: np.random.Generator) -> Named:
    """Random values for every input: signed, not of variance 1 about 0, since nothing may rest on
    inputs that look normalised; integers are 0 or 1, for they may be places in a small table.
    """
    return {given.name: _values(given.dtype, given.sized(sizes), generator) for given in inputs}


def _values(dtype: np.dtype[Any], shape: tuple[int, ...], generator: np.random.Generator) -> Any:
    if dtype.kind in "iub":
        most = 256 if dtype == np.uint8 else 2
        return np.asarray(generator.integers(0, most, shape), dtype=dtype)
    return np.asarray(generator.standard_normal(shape) * 1.5 - 0.25, dtype=dtype)


def asked_sizes(inputs: Sequence[Input], shapes: Sequence[InputShape]) -> Sizes:
    """The sizes that `--input` gives to free axes: of one sample, or of the batch as well.

    Raises BncheckError for what contradicts the model or itself.
    """
    known: dict[str, int] = {}
    for place, shape in enumerate(shapes):
        given = _named(inputs, shape, place)
        every = shape.batch is None and len(shape.sizes) == len(given.shape)
        names = given.shape if every else shape.without_batch(given.shape)
        fits = len(names) == len(shape.sizes) and all(
            known.setdefault(name, size) == size if isinstance(name, str) else name == size
            for name, size in zip(names, shape.sizes, strict=True)
        )
        if not fits:
            own = "x".join(map(str, given.shape))
            asked = ",".join(map(str, shape.sizes))
            free = any(isinstance(size, str) for size in given.shape)
            raise BncheckError(
                f"--input gives {given.name} the sizes {asked}, and the model takes {own}",
                "give the sizes of one sample, or all of them"
                if free
                else "leave it out: all of its sizes are fixed",
            )
    return known


def sizes_of(inputs: Sequence[Input], sample: Named) -> Sizes:
    """The sizes of free axes that these values have, without the number of samples."""
    batch = batch_axes(inputs)
    pairs = [
        (name, size)
        for given in inputs
        if given.ranked
        for name, size in zip(given.shape, sample[given.name].shape, strict=True)
    ]
    return {n: int(size) for n, size in pairs if isinstance(n, str) and n not in batch}


def _named(inputs: Sequence[Input], shape: InputShape, place: int) -> Input:
    names = [given.name for given in inputs]
    if shape.name is None and place < len(inputs):
        return inputs[place]
    if shape.name not in names:
        what = "more inputs than the model has" if shape.name is None else repr(shape.name)
        raise BncheckError(
            f"--input names {what}" if shape.name else f"--input gives {what}",
            f"the model takes {', '.join(names[:8]) or 'nothing'}",
        )
    return inputs[names.index(shape.name)]
