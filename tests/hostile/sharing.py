"""What a pickle may share: one large value in thousands of calls, states and modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.hostile.assembler import call, dict_, get, in_zip, name, put, tensor, text
from tests.hostile.case import ANY, add, case
from tests.hostile.programs import NORM_CODE, torchscript
from tests.hostile.size import many

# --- what the calls of a pickle share -------------------------------------------------------------


def _shared(folder: Path, shared: Callable[[], bytes], use: bytes, count: int) -> Path:
    """A pickle in which `use`, that takes value 0, stands so many times."""
    return in_zip(folder, shared() + put(0) + b"0" + use * many(count) + b"N")


def _texts(count: int) -> bytes:
    return b"(" + b"".join(text(str(number)) for number in range(many(count)))


_REBUILD = name("torch._utils", "_rebuild_tensor_v2")
for _name, _what, _share, _use in (
    ("shape", "a shape of 300,000 axes", lambda: b"(" + b"K\0" * many(300_000) + b"t",
     call(_REBUILD, b"N", b"K\0", get(0), get(0), b"N", b"N") + b"0"),
    ("arguments", "300,000 arguments", lambda: b"(" + b"N" * many(300_000) + b"t",
     name("a", "b") + get(0) + b"R0"),
    ("metadata", "metadata of 300,000 entries", lambda: b"}(" + b"NN" * many(300_000) + b"u",
     call(_REBUILD, b"N", b"K\0", b")", b")", b"N", b"N", get(0)) + b"0"),
    ("state", "a state of 100,000 entries", lambda: b"}" + _texts(100_000) + b"u",
     name("collections", "OrderedDict") + b")R" + get(0) + b"b0"),
    ("copies", "a dict of 100,000 entries", lambda: b"}" + _texts(100_000) + b"u",
     name("collections", "OrderedDict") + get(0) + b"\x85R0"),
    ("pairs", "100,000 pairs", lambda: b"(" + b"NN\x86" * many(100_000) + b"l",
     name("collections", "OrderedDict") + get(0) + b"\x85R0"),
):  # fmt: skip
    add(f"repeated-{_name}", ANY, f"{_what} in 20,000 calls",
        partial(_shared, shared=_share, use=_use, count=20_000))  # fmt: skip


def _modules(folder: Path, state: bytes, shared: bytes, count: int = 20_000) -> Path:
    """A module of so many children; value 0 is shared by their states."""
    one = call(name("models", "Child")) + state + b"b"
    children = b"}(" + b"".join(text(f"c{n}") + one for n in range(many(count))) + b"u"
    root = b"}(" + text("_modules") + children + text("_parameters") + b"}" + text("_buffers")
    return in_zip(folder, shared + put(0) + b"0" + call(name("models", "Net")) + root + b"}ub")


def _module_state(**items: bytes) -> bytes:
    empty = {"_modules": b"}", "_parameters": b"}", "_buffers": b"}"}
    return dict_(empty | items)


@case(ANY, "20,000 modules that share a set of 100,000 buffers that are not saved")
def repeated_set(folder: Path) -> Path:
    state = _module_state(_non_persistent_buffers_set=get(0))
    return _modules(folder, state, b"\x8f" + _texts(100_000) + b"\x90")


@case(ANY, "20,000 modules that share a dict of 50,000 parameters that are none")
def repeated_parameters(folder: Path) -> Path:
    return _modules(folder, _module_state(_parameters=get(0)), b"}" + _texts(100_000) + b"u")


@case(ANY, "20,000 modules of TorchScript that share their attributes")
def repeated_attributes(folder: Path) -> Path:
    shared = b"}" + _texts(100_000) + b"u" + put(0)
    norm = call(name("__torch__", "BatchNorm2d")) + get(0) + b"b"
    first = call(name("__torch__", "BatchNorm2d")) + shared + b"b"
    return torchscript(folder, {"__torch__.py": NORM_CODE}, norms=[first, *[norm] * 20_000])


# --- many small things ----------------------------------------------------------------------------


def _built(folder: Path, body: Callable[[], bytes]) -> Path:
    return in_zip(folder, body())


for _name, _what, _body in (
    ("short-texts", "5 million texts of two letters", lambda: b"(" + text("ab") * many(5_000_000)),
    ("numbers", "5 million numbers", lambda: b"(" + b"J\0\1\2\3" * many(5_000_000)),
    ("entries", "3 million entries of a dict", lambda: b"}(" + b"NN" * many(3_000_000) + b"u"),
    ("memo-backwards", "2 million numbered values, the last first",
     lambda: b"N" + b"".join(put(n) for n in range(many(2_000_000), 0, -1))),
    ("globals", "1.5 million globals", lambda: b"(" + name("a", "b") * many(1_500_000)),
    ("keys", "a state dict of 500,000 keys that are not tensors",
     lambda: b"}" + _texts(1_000_000) + b"u"),
):  # fmt: skip
    add(f"repeated-{_name}", ANY, _what,
        partial(_built, body=_body))  # fmt: skip


def _parts(folder: Path) -> Path:
    part = b"}" + text("weight") + get(0) + b"s"
    parts = b"".join(text(f"part-{number}-{'a' * 50}") + part for number in range(many(60_000)))
    return in_zip(folder, tensor() + put(0) + b"0}(" + parts + b"u")


add("repeated-parts", ANY, "a key that is not there, and 60,000 parts that could be meant",
    _parts, options=("--key", "part"))  # fmt: skip
