"""`--input 3,32,32`: the shape of one sample, from which example inputs are made."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bncheck.errors import BncheckError

if TYPE_CHECKING:
    import torch
    from torch import nn

_INPUT = re.compile(r"(?:(\w+)=)?(\d+(?:,\d+)*)?(?::(\w+))?")
#: Samples in an example: torch.export takes a size of 1 for one that never changes.
_BATCH = 2


@dataclass(frozen=True, slots=True)
class InputShape:
    """One input of a model: [name=]sizes[:dtype], without the batch."""

    name: str | None
    sizes: tuple[int, ...]
    dtype: str | None


def parse_input(word: str) -> InputShape:
    """`3,32,32`, `image=3,32,32`, `tokens=128:int64`."""
    match = _INPUT.fullmatch(word.replace(" ", ""))
    if not match or match[2] is None:
        raise BncheckError(
            f"--input {word!r} is not a shape", "write one sample's sizes, e.g. 3,224,224"
        )
    return InputShape(match[1], tuple(int(size) for size in match[2].split(",")), match[3])


def example_inputs(model: nn.Module, shapes: Sequence[InputShape]) -> tuple[torch.Tensor, ...]:
    """Random inputs of these shapes, in the order of the model's forward."""
    import torch

    generator = torch.Generator().manual_seed(0)
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    names = list(inspect.signature(model.forward).parameters)
    placed: dict[int, torch.Tensor] = {}
    for place, shape in enumerate(shapes):
        if shape.name is not None and shape.name not in names:
            raise BncheckError(
                f"--input names {shape.name!r}, which the model's forward does not take",
                f"it takes {', '.join(names[:8])}",
            )
        where = place if shape.name is None else names.index(shape.name)
        placed[where] = _example(shape, own, generator)
    if sorted(placed) != list(range(len(placed))):
        raise BncheckError("--input leaves out an input of the model", "give them in order")
    return tuple(placed[place] for place in sorted(placed))


def _example(shape: InputShape, own: torch.dtype, generator: Any) -> torch.Tensor:
    import torch

    dtype = own if shape.dtype is None else getattr(torch, shape.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise BncheckError(f"--input has the unknown dtype {shape.dtype!r}", "use e.g. int64")
    values = torch.randn((_BATCH, *shape.sizes), generator=generator)
    return values.to(dtype) if dtype.is_floating_point else torch.zeros_like(values).to(dtype)
