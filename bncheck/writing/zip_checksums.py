"""The checksums of a zip archive after bytes of its records have changed in place.

A record's CRC stands in its local header or, where bit 3 of its flags is set, behind its data, and
once more in the directory: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO, Final

_LOCAL: Final = struct.Struct("<26xHH")
_CENTRAL: Final = struct.Struct("<28xHHH12x")
_LOCAL_CRC: Final = 14
_CENTRAL_CRC: Final = 16
_DESCRIPTOR: Final = b"PK\x07\x08"
_HAS_DESCRIPTOR: Final = 0x8
_CHUNK: Final = 1 << 24


class Window:
    """A part of a file that reads and seeks as if it were a file of its own."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the window."""
        self._at = max(0, (0, self._at, self._size)[whence] + offset)
        return self._at

    def tell(self) -> int:
        """Where in the window."""
        return self._at

    def seekable(self) -> bool:
        """It is."""
        return True

    def read(self, length: int = -1) -> bytes:
        """Bytes from here on."""
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if length < 0 else min(length, left))
        self._at += len(data)
        return data

    def write(self, data: bytes) -> None:
        """Overwrite bytes from here on."""
        self._file.seek(self._start + self._at)
        self._file.write(data)
        self._at += len(data)


def update(window: Window, edited: Iterable[int]) -> None:
    """Put the CRC of every record right that holds one of the edited places of the window."""
    places = sorted(edited)
    with zipfile.ZipFile(window) as archive:
        infos, directory = archive.infolist(), archive.start_dir
    at = directory
    for info in infos:
        start, end = _data_range(window, info)
        if any(start <= place < end for place in places):
            crc = struct.pack("<I", _crc(window, start, end))
            _write(window, at + _CENTRAL_CRC, crc)
            _write_record_crc(window, info, end, crc)
        at += 46 + sum(_CENTRAL.unpack(_read(window, at, _CENTRAL.size)))


def _data_range(window: Window, info: zipfile.ZipInfo) -> tuple[int, int]:
    name, extra = _LOCAL.unpack(_read(window, info.header_offset, _LOCAL.size))
    start = info.header_offset + 30 + name + extra
    return start, start + info.compress_size


def _write_record_crc(window: Window, info: zipfile.ZipInfo, end: int, crc: bytes) -> None:
    old = struct.pack("<I", info.CRC)
    if _read(window, info.header_offset + _LOCAL_CRC, 4) == old:
        _write(window, info.header_offset + _LOCAL_CRC, crc)
    if info.flag_bits & _HAS_DESCRIPTOR:
        signed = _read(window, end, 4) == _DESCRIPTOR
        place = end + 4 if signed else end
        if _read(window, place, 4) == old:
            _write(window, place, crc)


def _crc(window: Window, start: int, end: int) -> int:
    crc = 0
    window.seek(start)
    while start < end:
        part = window.read(min(_CHUNK, end - start))
        if not part:
            break
        crc = zlib.crc32(part, crc)
        start += len(part)
    return crc


def _read(window: Window, offset: int, length: int) -> bytes:
    window.seek(offset)
    return window.read(length)


def _write(window: Window, offset: int, data: bytes) -> None:
    window.seek(offset)
    window.write(data)
