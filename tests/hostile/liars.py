"""Files that look sound and in which torch.load finds other numbers, even with weights_only.

All hold a negative variance for torch (a test shows it), and a good one for whoever reads
a little less than torch does.
"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

import numpy as np

from tests.hostile.assembler import call, dict_, name, text, tuple_
from tests.hostile.case import FOUND, REFUSED, add, pack

_NEGATIVE = np.full(4, -1, np.float32).tobytes()
_GOOD = np.array([0.5, 0.25, 0.75, 1.5], np.float32).tobytes()
_HOOKS = call(name("collections", "OrderedDict"))


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _view(key: str) -> tuple[bytes, ...]:
    pid = (text("storage"), name("torch", "FloatStorage"), text(key), text("cpu"), _integer(4))
    return tuple_(*pid) + b"Q", _integer(0), tuple_(_integer(4)), tuple_(_integer(1))


def _rebuild(kind: str, *arguments: bytes) -> bytes:
    return call(name("torch._utils", f"_rebuild_{kind}"), *arguments)


def _tensor(key: str, *metadata: bytes) -> bytes:
    return _rebuild("tensor_v2", *_view(key), b"\x89", _HOOKS, *metadata)


def _variance(shown: bytes) -> bytes:
    return dict_({"bn.running_mean": _SHOWN, "bn.running_var": shown})


_SHOWN, _BAD = _tensor("0"), _tensor("1")


def _records(body: bytes) -> dict[str, bytes]:
    return {
        "archive/data.pkl": b"\x80\x02" + body + b".",
        "archive/data/0": _GOOD,
        "archive/data/1": _NEGATIVE,
        "archive/version": b"3\n",
    }


def _packed(folder: Path, body: bytes) -> Path:
    return pack(folder / "model.pt", _records(body))


_SOUND = {"bn.running_mean": _SHOWN, "bn.running_var": _SHOWN}
_EVIL = {"evil.running_mean": _SHOWN, "evil.running_var": _BAD}
_PAIRS = b"](" + b"".join(tuple_(text(key), value) for key, value in _EVIL.items()) + b"e"
_ITEMS = b"(" + b"".join(text(key) + value for key, value in _SOUND.items()) + b"u"
_ORDERED = name("collections", "OrderedDict")

#: What it is called, the right exit codes, what it is, and its pickle.
_PICKLES = (
    ("sign-bit", REFUSED, "a tensor whose metadata says that it is its own negative",
     _variance(_tensor("0", dict_({"neg": b"\x88"})))),
    ("second-view", REFUSED, "a tensor with a state, which torch hands to set_()",
     _variance(_SHOWN + tuple_(*_view("1")) + b"b")),
    ("second-data", REFUSED, "a parameter whose state has a `data`",
     _variance(_rebuild("parameter_with_state", _SHOWN, b"\x89", _HOOKS, dict_({"data": _BAD})))),
    ("pairs-and-items", FOUND, "an OrderedDict of pairs to which items are added",
     call(_ORDERED, _PAIRS) + _ITEMS),
    ("dict-of-dict", REFUSED, "an OrderedDict made from a dict, to which items are added",
     call(_ORDERED, dict_(_EVIL)) + _ITEMS),
    ("device-tensor", REFUSED, "a layer whose tensors are copies from another device",
     dict_(_SOUND | {key: _rebuild("device_tensor_from_cpu_tensor", value,
                                   name("torch", "float32"), text("cpu"), b"\x89")
                     for key, value in _EVIL.items()})),
)  # fmt: skip
for _name, _codes, _what, _body in _PICKLES:
    add(f"lie-{_name}", _codes, _what, partial(_packed, body=_body))


def _record_case(folder: Path) -> Path:
    """torch looks records up without regard to case, by halving a sorted list."""
    records = _records(_variance(_SHOWN)) | {"archive/data/5": b""}
    records["archive/DATA.PKL"] = _records(_variance(_BAD))["archive/data.pkl"]
    return pack(folder / "model.pt", records)


def _directory(archive: bytes) -> tuple[int, int, int]:
    end = archive.rindex(b"PK\x05\x06")
    size, offset = struct.unpack_from("<II", archive, end + 12)
    return offset, size, end


def _second_directory(folder: Path) -> Path:
    """The end points at one directory, and another lies right before it."""
    seen, shown = (_packed(folder, _variance(variance)).read_bytes() for variance in (_BAD, _SHOWN))
    offset, size, end = _directory(seen)
    start, shown_size, _ = _directory(shown)
    assert size == shown_size
    directory, place, begin = bytearray(shown[start : start + size]), 0, offset + size
    while place < size:
        lengths = struct.unpack_from("<HHH", directory, place + 28)
        (header,) = struct.unpack_from("<I", directory, place + 42)
        # zipfile adds the distance by which it believes the archive was moved: start + size.
        struct.pack_into("<I", directory, place + 42, (header + begin - start - size) % (1 << 32))
        place += 46 + sum(lengths)
    both = seen[:begin] + shown[:start] + bytes(directory) + seen[end:]
    (folder / "model.pt").write_bytes(both)
    return folder / "model.pt"


add("lie-record-case", REFUSED, "data.pkl and DATA.PKL", _record_case)
add("lie-second-directory", REFUSED, "a zip archive with two directories", _second_directory)
