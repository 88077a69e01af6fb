"""Pickles that eat time or memory."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tests.hostile.assembler import (
    HOOKS,
    PROTO,
    STATISTICS,
    call,
    dict_,
    get,
    integer,
    module,
    name,
    pickle_case,
    put,
    tensor,
    text,
    tuple_,
)
from tests.hostile.case import ANY, REFUSED, case, file
from tests.hostile.size import many

_FUNCTION = name("a", "b")


def _laughs(level: Callable[[bytes], bytes], levels: int, leaf: bytes) -> bytes:
    """Each level holds the one before twice: 2^levels leaves in a few hundred bytes."""
    body = leaf + put(0) + b"0"
    for number in range(levels):
        body += level(get(number)) + put(number + 1) + b"0"
    return body + get(levels)


def _laughing_module(levels: int) -> bytes:
    return _laughs(lambda x: module({"a": x, "b": x}), levels, module({}, STATISTICS))


def _roots(levels: int, count: int) -> bytes:
    """Several modules, each of which holds one tree of 2^levels modules."""
    roots = [module({"a": get(levels)}) for _ in range(count)]
    return _laughing_module(levels) + b"0](" + b"".join(roots) + b"e"


def _colliding(count: int) -> list[bytes]:
    """Integers that Python's hash maps to 0: a dict of them takes quadratic time to build."""
    return [integer(number * (2**61 - 1)) for number in range(1, count + 1)]


DEEP = 100_000
_LONG_NAME = "x" * 1_000_000
_TUPLES = b")" + b"2\x86" * 60  # (t, t), sixty levels

for _name, _codes, _what, _body in (
    ("memo-bomb", ANY, "a memo index that makes C pickle allocate 32 GiB", b"Nr\xff\xff\xff\x7f"),
    ("memo-missing", REFUSED, "a memo index that was never set", b"h\x07"),
    ("empty-stack", REFUSED, "STOP with nothing on the stack", b""),
    ("no-mark", REFUSED, "a list without its beginning", b"l"),
    ("unknown-opcode", REFUSED, "a byte that is not an opcode", b"N\xff"),
    ("laughs-tuples", ANY, "2^60 tuples", _TUPLES),
    ("laughs-lists", ANY, "2^60 lists", b"(" * 60 + b"N" + b"2l" * 60),
    ("laughs-dicts", ANY, "2^60 dicts around a state dict",
     _laughs(lambda x: dict_({"a": x, "b": x}), 60, dict_(STATISTICS))),
    ("laughs-modules", ANY, "2^40 modules", _laughing_module(40)),
    ("laughs-modules-of-many-roots", ANY, "60 trees of 2^18 modules each, all below a limit",
     _roots(18, 60)),
    ("laughs-as-function", ANY, "the function of a call is 2^60 tuples: hashing it never ends",
     _TUPLES + b")R"),
    ("deep-tuple-as-function", ANY, "the function of a call is a million tuples deep",
     b")" + b"\x85" * 1_000_000 + b")R"),
    ("list-as-function", ANY, "the function of a call is a list, which has no hash", b"])R"),
    ("cycle-list", ANY, "a list in itself", b"]" + put(0) + get(0) + b"a"),
    ("cycle-dict", ANY, "a dict in itself", b"}" + put(0) + text("k") + get(0) + b"s"),
    ("cycle-module", ANY, "a module that is its own child",
     call(_FUNCTION) + put(0)
     + dict_({"_modules": dict_({"me": get(0)}), "_parameters": b"}", "_buffers": b"}"}) + b"b"),
    ("cycle-state", ANY, "an object that is its own state",
     call(_FUNCTION) + put(0) + get(0) + b"b"),
    ("deep-lists", ANY, "100,000 lists in each other", b"]" * (DEEP + 1) + b"a" * DEEP),
    ("deeper-lists", ANY, "a million lists in each other", b"]" * 1_000_001 + b"a" * 1_000_000),
    ("deep-tuples", ANY, "100,000 tuples in each other", b")" + b"\x85" * DEEP),
    ("deep-dicts", ANY, "100,000 dicts in each other",
     lambda: (b"}" + text("k")) * DEEP + b"}" + b"s" * DEEP),
    ("deep-state-dicts", ANY, "5,000 dicts in each other, each with a tensor and a long name",
     lambda: tensor() + put(9) + b"0"
     + (b"}" + text("w") + get(9) + b"s" + text("k" * 200)) * 5000 + b"}" + b"s" * 5000),
    ("deep-calls", ANY, "100,000 calls in each other",
     lambda: _FUNCTION * DEEP + b")" + b"R\x85" * DEEP),
    ("deep-parameters", ANY, "100,000 parameters around each other",
     lambda: name("torch._utils", "_rebuild_parameter") * DEEP + tensor() + b"\x85R" * DEEP),
    ("deep-modules", ANY, "5,000 modules in each other",
     lambda: b"".join(call(_FUNCTION) + b"}" + text("_parameters") + b"}s"
                      + text("_buffers") + b"}s" + text("_modules") + b"}" + text("m")
                      for _ in range(5000))
     + b"N" + b"ssb" * 5000),
    ("long-names-in-each-other", ANY, "300 modules in each other, each name of a megabyte",
     lambda: text(_LONG_NAME) + put(9) + b"0"
     + b"".join(call(_FUNCTION) + b"}" + text("_parameters") + b"}s"
                + text("_buffers") + dict_({"b": tensor()}) + b"s"
                + text("_modules") + b"}" + get(9) for _ in range(300))
     + b"N" + b"ssb" * 300),
    ("long-keys-in-each-other", ANY, "2,000 dicts in each other, each key of a megabyte",
     text(_LONG_NAME) + put(9) + b"0"
     + (b"}" + text("w") + tensor() + b"s" + get(9)) * 2000 + b"}" + b"s" * 2000),
    ("prefix-without-end", ANY, "names that begin with 600,000 times `module.`",
     lambda: dict_({"module." * 600_000 + key: value for key, value in STATISTICS.items()})),
    ("shared-state", ANY, "20,000 objects that share a state of 20,000 entries",
     lambda: dict_({str(n): b"N" for n in range(20_000)}) + put(0) + b"0]("
     + (_FUNCTION + b")R" + get(0) + b"b") * 20_000 + b"e"),
    ("shared-state-and-slots", ANY, "the same with the state as a pair: (__dict__, slots)",
     lambda: dict_({str(n): b"N" for n in range(20_000)}) + b"N\x86" + put(0) + b"0]("
     + (_FUNCTION + b")R" + get(0) + b"b") * 20_000 + b"e"),
    ("shared-parameter-chain", ANY, "a chain of 300 parameters in 1,000,000 entries",
     lambda: name("torch._utils", "_rebuild_parameter") * 300 + tensor() + b"\x85R" * 300 + put(0)
     + b"0" + text("k") + put(1) + b"0}(" + (get(1) + get(0)) * 1_000_000 + b"u"),
    ("ten-million-dicts", ANY, "10 MB of EMPTY_DICT", lambda: b"}" * many(9_900_000)),
    ("too-many-operations", ANY, "60 MB of opcodes that do nothing",
     lambda: b"N0" * many(30_000_000) + b"N"),
    ("hash-collisions", ANY, "a dict of 200,000 integers of one hash",
     lambda: b"}(" + b"".join(key + b"N" for key in _colliding(many(200_000))) + b"u"),
    ("hash-collisions-in-a-set", ANY, "a frozenset of 200,000 integers of one hash",
     lambda: b"(" + b"".join(_colliding(many(200_000))) + b"\x91"),
    ("huge-int", ANY, "an integer of 2^31-1 bytes", b"\x8b\xff\xff\xff\x7f"),
    ("huge-int-as-text", ANY, "an integer of 1,000,000 digits, quadratic to parse",
     b"I" + b"9" * 1_000_000 + b"\n"),
    ("huge-int-as-key", ANY, "a key of 10,000 digits, which Python refuses to print",
     b"}" + integer(1 << 32_000) + dict_(STATISTICS) + b"s"),
    ("huge-eps", ANY, "a module whose eps is no float's size",
     call(name("torch.nn", "BatchNorm2d"))
     + dict_({"_modules": b"}", "_parameters": b"}",
              "_buffers": dict_({"running_mean": tensor(), "running_var": tensor()}),
              "eps": integer(1 << 2000), "momentum": integer(1 << 2000)}) + b"b"),
    ("frame-length", ANY, "a frame of 2^60 bytes", b"\x95" + struct.pack("<Q", 1 << 60) + b"N"),
    ("bytearray-length", REFUSED, "a bytearray of 2^60 bytes",
     b"\x96" + struct.pack("<Q", 1 << 60)),
    ("bytes-length", REFUSED, "bytes of 2^63 bytes", b"\x8e" + struct.pack("<Q", 1 << 63)),
    ("text-length", REFUSED, "a text of 2^60 bytes", b"\x8d" + struct.pack("<Q", 1 << 60)),
    ("negative-length", REFUSED, "a number of -1 bytes", b"\x8b\xff\xff\xff\xff"),
    ("line-without-end", REFUSED, "a global whose name never ends", b"c" + b"a" * 1_000_000),
):  # fmt: skip
    pickle_case(f"pickle-{_name}", _codes, _what, _body)


def _storage(of: Tensor) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TypedStorage is deprecated; plain pickles hold it
        make: Callable[[], object] = of.storage
        return make()


@case(ANY, "a nested torch file of two million operations, referred to 60 times")
def nested_file_shared(folder: Path) -> Path:
    inner = io.BytesIO()
    torch.save(_storage(torch.rand(4)), inner, _use_new_zipfile_serialization=False)
    data = inner.getvalue()
    at = data.rindex(b"\x80\x02", 0, data.index(b"storage"))
    data = data[: at + 2] + b"N0" * 1_000_000 + data[at + 2 :]
    blob = b"B" + struct.pack("<I", len(data)) + data
    storage = call(name("torch.storage", "_load_from_bytes"), blob)
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    rest = (integer(0), tuple_(integer(4)), tuple_(integer(1)), b"\x89", HOOKS)
    first, other = call(rebuild, storage + put(0), *rest), call(rebuild, get(0), *rest)
    content = {"bn.running_mean": first} | {f"w{number}": other for number in range(60)}
    return file(folder, PROTO + dict_(content) + b".")
