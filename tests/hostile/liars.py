"""Files that look sound and in which torch.load finds other numbers, even with weights_only.

All hold a negative variance for torch (a test shows it), and a good one for whoever reads
a little less than torch does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.hostile.assembler import call, dict_, name, text, tuple_
from tests.hostile.case import FOUND, REFUSED, add, pack, saved

_NEGATIVE = np.full(4, -1, np.float32).tobytes()
_GOOD = np.array([0.5, 0.25, 0.75, 1.5], np.float32).tobytes()
#: About 0.5 as big-endian numbers, negative and tiny as little-endian ones.
_SWAPPED = np.full(4, 0x3F000080, ">u4").tobytes()
_NEGATIVE_SWAPPED = np.full(4, -1, ">f4").tobytes()
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
    ("dict-of-dict", FOUND, "an OrderedDict made from a dict, to which items are added",
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


def _directory(archive: bytes | bytearray) -> tuple[int, int, int]:
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


def _patched(folder: Path, records: dict[str, bytes], patch: Callable[[bytearray], None]) -> Path:
    path = pack(folder / "model.pt", records)
    archive = bytearray(path.read_bytes())
    patch(archive)
    path.write_bytes(archive)
    return path


_BIG = {"archive/data/0": _SWAPPED, "archive/data/1": _SWAPPED}


def _uncounted_byte_order(folder: Path) -> Path:
    """The end counts one record less than the directory lists, so torch never sees the last."""
    sound = _records(_variance(_SHOWN)) | _BIG | {"archive/byteorder": b"big"}

    def patch(archive: bytearray) -> None:
        _, _, end = _directory(archive)
        struct.pack_into("<HH", archive, end + 8, len(sound) - 1, len(sound) - 1)

    return _patched(folder, sound, patch)


def _byte_order_in_capitals(folder: Path) -> Path:
    records = _records(_variance(_SHOWN)) | {"archive/data/0": _NEGATIVE_SWAPPED}
    return pack(folder / "model.pt", records | {"archive/BYTEORDER": b"big"})


def _folder_record(folder: Path) -> Path:
    """torch reads nothing from a record that is a folder by its DOS attribute."""

    def patch(archive: bytearray) -> None:
        start, _, _ = _directory(archive)
        entry = archive.index(b"archive/data/0", start) - 46
        archive[entry + 38] |= 0x10

    return _patched(folder, _records(_variance(_SHOWN)), patch)


def _forged_end(folder: Path) -> Path:
    """Behind the end lies what would be the end if its comment were taken at its word."""
    path = _second_directory(folder)
    archive = bytearray(path.read_bytes())
    _, size, end = _directory(archive)
    struct.pack_into("<H", archive, end + 20, 2)
    forged = struct.pack("<4s4xHHIIH", b"XX\5\6", 4, 4, size, end - size, 0)
    path.write_bytes(archive + forged + b"\0\0")
    return path


def _skipped(folder: Path) -> Path:
    with torch.serialization.skip_data():
        return saved(folder)


add("lie-record-count", REFUSED, "an end that hides the byte order", _uncounted_byte_order)
add("lie-record-capitals", FOUND, "a byte order that torch finds as BYTEORDER",
    _byte_order_in_capitals)  # fmt: skip
add("no-numbers-folder-record", REFUSED, "a storage that is a folder", _folder_record)
add("no-numbers-skip-data", REFUSED, "a file of torch.serialization.skip_data", _skipped)
add("lie-forged-end", REFUSED, "a zip archive whose end lies behind its end", _forged_end)
