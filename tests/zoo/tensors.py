"""Tensors of every kind, in zip files of torch.save."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.zoo.layout import BUILDERS, Layout, layout, silent
from tests.zoo.states import State, statistics, zipped


def _of_dtype(folder: Path, dtype: torch.dtype) -> Layout:
    expected = {name: tensor.to(dtype) for name, tensor in statistics().items()}
    expected["bn.num_batches_tracked"] = torch.tensor(7)
    return zipped(folder, expected, expected, layers=silent(["bn"]))


for _dtype in (torch.float16, torch.bfloat16, torch.float64):
    BUILDERS[f"zip-{str(_dtype).removeprefix('torch.')}"] = partial(_of_dtype, dtype=_dtype)

#: torch's dtypes that NumPy or ml_dtypes has, too, and that safetensors knows.
_DTYPES = tuple(
    getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"),
    )
)


def of_every_dtype() -> State:
    return {f"buffer.{dtype}".replace("torch.", ""): torch.arange(4).to(dtype) for dtype in _DTYPES}


@layout
def odd_dtypes(folder: Path) -> Layout:
    expected = of_every_dtype() | statistics()
    expected["complex128"] = torch.arange(4).to(torch.complex128)
    return zipped(folder, expected, expected, layers=silent(["bn"]))


def views() -> State:
    """Views of one storage: offsets, steps, overlaps, a transposed one, an expanded one."""
    base = torch.arange(64, dtype=torch.float32) + 1
    return {
        "conv.weight": base.view(8, 8).t(),
        "permuted": base.view(2, 4, 8).permute(2, 0, 1),
        "channels_last": base.view(1, 2, 4, 8).contiguous(memory_format=torch.channels_last),
        "bn.weight": base[3:7],
        "bn.bias": base[8:24:4],
        "bn.running_mean": base.view(8, 8)[1:5, 2],
        "bn.running_var": torch.tensor(0.5).expand(4),
        "expanded": torch.arange(3.0).view(3, 1).expand(3, 5),
        "tied": base,
        "scalar": base[63],
    }


@layout
def views_of_one_storage(folder: Path) -> Layout:
    expected = views()
    return zipped(folder, expected, expected, layers=silent(["bn"]))


@layout
def tied_and_empty(folder: Path) -> Layout:
    tied = torch.rand(4)
    expected = {
        "a.running_mean": tied,
        "a.running_var": tied,
        "b.running_mean": tied,
        "b.running_var": nn.Parameter(torch.rand(4)),
        "empty": torch.empty(0),
        "empty_matrix": torch.empty(0, 7),
        "zero_dim": torch.tensor(2.5),
    }
    return zipped(folder, expected, expected, layers=silent("ab"))


class TaggedParameter(nn.Parameter):
    """Pickled through torch._tensor._rebuild_from_type_v2, with a state of its own."""


class TaggedTensor(Tensor):
    """The same for a buffer."""


@layout
def parameter_subclasses(folder: Path) -> Layout:
    expected = dict(statistics())
    tagged = TaggedParameter(expected["bn.weight"])
    tagged.note = "mine"  # type: ignore[attr-defined]
    stateful = nn.Parameter(expected["bn.bias"])
    stateful.origin = "here"  # type: ignore[attr-defined]
    content = {
        **expected,
        "bn.weight": tagged,
        "bn.bias": stateful,
        "bn.running_mean": expected["bn.running_mean"].as_subclass(TaggedTensor),
    }
    return zipped(folder, content, expected, layers=silent(["bn"]))
