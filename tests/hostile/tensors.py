"""Tensors that are not what they say, and statistics that are not numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tests.hostile.assembler import (
    STATISTICS,
    call,
    dict_,
    in_zip,
    integer,
    name,
    pickle_case,
    tensor,
    text,
    tuple_,
)
from tests.hostile.case import ANY, FOUND, REFUSED, add, case, saved
from tests.hostile.pickles import DEEP
from tests.zoo import states as zoo


def _statistics_are(shown: bytes) -> bytes:
    return dict_({"bn.running_mean": shown, "bn.running_var": tensor()})


for _name, _codes, _what, _tensor in (
    ("stride-0", REFUSED, "four bytes that pretend to be 4 TiB", tensor((1 << 40,), (0,))),
    ("stride-0-in-2d", REFUSED, "the same in two dimensions", tensor((1 << 20, 1 << 20), (0, 0))),
    ("negative-offset", REFUSED, "a view that begins before its storage", tensor(offset=-4)),
    ("negative-stride", REFUSED, "a view that runs backwards", tensor(strides=(-1,))),
    ("negative-shape", REFUSED, "minus four elements", tensor((-4,))),
    ("beyond-storage", REFUSED, "a view of a neighbour's bytes", tensor((5,), (1,))),
    ("beyond-storage-by-offset", REFUSED, "the same by its offset", tensor(offset=1)),
    ("2^60-elements", REFUSED, "a shape of 2^60", tensor((1 << 60,), (1,))),
    ("2^70-elements", REFUSED, "a shape beyond 64 bits", tensor((1 << 70,), (1,))),
    ("2^70-of-nothing", ANY, "no elements, but 2^70 rows", tensor((1 << 70, 0), (1, 1))),
    ("2^62-of-nothing", ANY, "no elements, but 2^62 rows", tensor((1 << 62, 0), (1, 1))),
    ("stride-of-2^70", ANY, "one element and a stride beyond 64 bits", tensor((1,), (1 << 70,))),
    ("65-dimensions", ANY, "more dimensions than NumPy has", tensor((1,) * 65, (1,) * 65)),
    ("100000-dimensions", ANY, "many more", tensor((1,) * DEEP, (1,) * DEEP)),
    ("storage-missing", REFUSED, "a storage that the archive lacks", tensor(key="7")),
    ("storage-elsewhere", REFUSED, "a storage named ../../x", tensor(key="../../x")),
    ("storage-short", REFUSED, "a storage shorter than the pickle says", tensor(elements=40)),
    ("storage-negative", ANY, "a storage of minus four elements", tensor(elements=-4)),
    ("unknown-dtype", REFUSED, "a storage of a type that nobody has", tensor(storage="Nope")),
    ("rank-mismatch", REFUSED, "more strides than dimensions", tensor((4,), (1, 1))),
    ("arguments-missing", REFUSED, "a tensor without arguments",
     call(name("torch._utils", "_rebuild_tensor_v2"))),
    ("numpy-bad-dtype", ANY, "an array of 7-byte floats",
     call(name("numpy._core.numeric", "_frombuffer"), b"C\x07" + bytes(7),
          call(name("numpy", "dtype"), text("f7")), tuple_(integer(1)), text("C"))),
    ("numpy-negative-shape", ANY, "an array of -1 x -4 numbers",
     call(name("numpy._core.numeric", "_frombuffer"), b"C\x10" + bytes(16),
          call(name("numpy", "dtype"), text("f4")), tuple_(integer(-1), integer(-4)), text("C"))),
    ("numpy-no-bytes", ANY, "an array whose contents are None",
     call(name("numpy._core.numeric", "_frombuffer"), b"N",
          call(name("numpy", "dtype"), text("f4")), tuple_(integer(4)), text("C"))),
    ("numpy-bytes-no-latin-1", REFUSED, "an array whose bytes are a letter that is not a byte",
     call(name("numpy._core.numeric", "_frombuffer"),
          call(name("_codecs", "encode"), text("\u20ac"), text("latin1")),
          call(name("numpy", "dtype"), text("u1")), tuple_(integer(1)), text("C"))),
    ("numpy-bytes-surrogate", REFUSED, "an array whose bytes are a text that is none",
     call(name("numpy._core.numeric", "_frombuffer"), text("\ud800"),
          call(name("numpy", "dtype"), text("u1")), tuple_(integer(3)), text("C"))),
    ("numpy-65-dimensions", ANY, "an array of too many dimensions",
     call(name("numpy._core.numeric", "_frombuffer"), b"C\x04" + bytes(4),
          call(name("numpy", "dtype"), text("f4")), tuple_(*[integer(1)] * 65), text("C"))),
):  # fmt: skip
    pickle_case(f"tensor-{_name}", _codes, _what, _statistics_are(_tensor))


@case(REFUSED, "a whole storage less than the view needs, in the archive itself")
def storage_record_short(folder: Path) -> Path:
    return in_zip(folder, dict_(STATISTICS), {"data/0": bytes(8)})


# --- statistics that are not numbers --------------------------------------------------------------


def _with(folder: Path, changed: Mapping[str, Tensor]) -> Path:
    return saved(folder, zoo.statistics() | {f"bn.{key}": value for key, value in changed.items()})


for _name, _codes, _what, _changed in (
    ("nan", FOUND, "NaN", {"running_mean": torch.tensor([0.5, torch.nan, 1, 1])}),
    ("negative", FOUND, "a negative variance", {"running_var": torch.tensor([0.5, -1, 1, 1])}),
    ("infinite", FOUND, "an infinite variance", {"running_var": torch.full((4,), torch.inf)}),
    ("at-the-limits", ANY, "the largest doubles, whose squares overflow",
     {k: torch.full((4,), 1.7e308, dtype=torch.float64)
      for k in ("running_mean", "running_var", "weight")}),
    ("smallest", ANY, "the smallest doubles", {"running_var": torch.full((4,), 5e-324).double()}),
    ("complex", ANY, "complex numbers", {"running_mean": torch.full((4,), 1j)}),
    ("bool", ANY, "truth values", {"running_var": torch.ones(4, dtype=torch.bool)}),
    ("int8", ANY, "small integers", {"running_var": torch.full((4,), 100, dtype=torch.int8)}),
    ("uint64", ANY, "integers that no float holds",
     {"running_mean": torch.full((4,), 2**63 + 1, dtype=torch.uint64)}),
    ("float8", ANY, "eight-bit floats", {"running_var": torch.ones(4).to(torch.float8_e5m2)}),
    ("no-channels", ANY, "layers of no channels",
     {k: torch.empty(0) for k in ("running_mean", "running_var", "weight", "bias")}),
    ("no-channels-in-one", ANY, "a variance of no channels", {"running_var": torch.empty(0)}),
    ("sizes-differ", ANY, "a mean of three and a variance of four",
     {"running_mean": torch.rand(3)}),
    ("affine-differs", ANY, "weights of another length", {"weight": torch.rand(3)}),
    ("bias-differs", ANY, "a bias of another length", {"bias": torch.rand(7)}),
    ("scalars", ANY, "tensors without dimensions", {"running_mean": torch.tensor(0.5)}),
    ("matrix", ANY, "a mean of two dimensions", {"running_mean": torch.rand(2, 2)}),
    ("counter-negative", ANY, "-1 batches", {"num_batches_tracked": torch.tensor(-1)}),
    ("counter-nan", ANY, "NaN batches", {"num_batches_tracked": torch.tensor(torch.nan)}),
    ("counter-complex", ANY, "1j batches", {"num_batches_tracked": torch.tensor(1j)}),
    ("counter-vector", ANY, "four batch counters", {"num_batches_tracked": torch.arange(4)}),
    ("counter-huge", ANY, "2^63-1 batches", {"num_batches_tracked": torch.tensor(2**63 - 1)}),
    ("counter-1e308", ANY, "1e308 batches",
     {"num_batches_tracked": torch.tensor(1e308, dtype=torch.float64)}),
):  # fmt: skip
    add(f"statistics-{_name}", _codes, _what, partial(_with, changed=_changed))


@case(REFUSED, "a storage of 4 MB that 4,000 statistics share: 16 GB of numbers")
def statistics_shared(folder: Path) -> Path:
    shared = torch.ones(1 << 20)
    roles = ("running_mean", "running_var", "weight", "bias")
    return saved(folder, {f"{i}.{role}": shared for i in range(1000) for role in roles})


@case(REFUSED, "one storage with two dtypes, of which torch takes the first")
def storage_of_two_dtypes(folder: Path) -> Path:
    return in_zip(folder, dict_({"x": tensor(storage="IntStorage"), **STATISTICS}))


@case(REFUSED, "an unknown byte order")
def byte_order_unknown(folder: Path) -> Path:
    return in_zip(folder, dict_(STATISTICS), {"byteorder": b"middle"})
