"""A little assembler of pickles: what no pickler would write."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from tests.hostile.case import add, pack

PROTO = b"\x80\x04"


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def dict_(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_(*arguments) + b"R"


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


#: The last argument of a tensor or parameter.
HOOKS = call(name("collections", "OrderedDict"))


def tensor(
    shape: tuple[int, ...] = (4,),
    strides: tuple[int, ...] = (1,),
    offset: int = 0,
    elements: int = 4,
    key: str = "0",
    storage: str = "FloatStorage",
) -> bytes:
    """A tensor as torch pickles it, over the storage `key`."""
    pid = tuple_(text("storage"), name("torch", storage), text(key), text("cpu"), integer(elements))
    numbers = [tuple_(*map(integer, values)) for values in (shape, strides)]
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, pid + b"Q", integer(offset), *numbers, b"\x89", HOOKS)


def module(children: Mapping[str, bytes], buffers: Mapping[str, bytes] | None = None) -> bytes:
    state = {"_modules": dict_(children), "_parameters": b"}", "_buffers": dict_(buffers or {})}
    return call(name("models", "Net")) + dict_(state) + b"b"


STATISTICS = {"bn.running_mean": tensor(), "bn.running_var": tensor()}


Body = bytes | Callable[[], bytes]  # large ones are made when they are asked for


def in_zip(folder: Path, body: Body, more: Mapping[str, bytes] | None = None) -> Path:
    """A torch archive with this pickle and one storage of four floats."""
    body = body() if callable(body) else body
    records = {
        "archive/data.pkl": PROTO + body + b".",
        "archive/data/0": np.array([0.5, 0.25, 0.75, 1.5], np.float32).tobytes(),
        "archive/version": b"3\n",
    }
    records |= {f"archive/{record}": data for record, data in (more or {}).items()}
    return pack(folder / "model.pt", records)


def pickle_case(key: str, codes: frozenset[int], what: str, body: Body) -> None:
    add(key, codes, what, partial(in_zip, body=body))
