"""The records of a zip archive as torch writes them: stored, one top folder, read in place.

Python's zipfile reads the directory. The records themselves are read here, because torch maps them
into memory and so never looks at what zipfile would check, and a tool must see what torch sees or
refuse: duplicate names (torch takes the first, zipfile the last), compressed records (torch's mmap
reads the compressed bytes as numbers), names that differ between directory and record, records
that call themselves a directory (torch reads nothing), an end that counts fewer records than the
directory lists (torch sees the first ones only).
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO, cast

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import (
    MAX_EXPANDED_BYTES,
    MAX_TEXT_RECORD_BYTES,
    MAX_ZIP_DIRECTORY_BYTES,
)
from bncheck.core.words import shortened
from bncheck.reading.source import Source
from bncheck.reading.tensors import Storage

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_USUAL_NAME = 64  # bytes
# The directory's end: a mark, the number of records on this disk and of all, the offset.
_END = struct.Struct("<4s4xHH4xI2x")
_END64 = struct.Struct("<4s20xQQ8xQ")
_LOCATOR = struct.Struct("<8xQ4x")  # where the latter begins
#: What a record takes: the shortest entry of a directory, operations, and memory while it is known.
_RECORD_BYTES = 46
_RECORD_OPERATIONS = 10
_HELD_RECORD = 320
_ARCHIVE_OPERATIONS = 200
_TEXT_AN_OPERATION = 64  # bytes that are inflated and looked through
_DAMAGED = "download or copy it again"
_DOS_DIRECTORY = 0x10


@dataclass(frozen=True, slots=True)
class _Record:
    header: int
    stored: int  # bytes in the archive
    size: int  # bytes when inflated
    crc: int
    compressed: bool
    encrypted: bool
    folder: bool


class _DirectoryLimit:
    """A stream that refuses to hand zipfile an unreasonably long directory in one piece."""

    def __init__(self, stream: BinaryIO, budget: Budget) -> None:
        self._stream = stream
        self._budget = budget
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, length: int = -1) -> bytes:
        if length > MAX_ZIP_DIRECTORY_BYTES:
            raise BncheckError(
                f"has a zip directory of {length:,} bytes (limit MAX_ZIP_DIRECTORY_BYTES)",
                "save the weights alone, as a state dict",
            )
        self._budget.operations.take(max(length, 0) // _RECORD_BYTES * _RECORD_OPERATIONS)
        return self._stream.read(length)


class ZipArchive:
    """Records by their path below the archive's top folder (`data.pkl`, `data/0`)."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._records: dict[str, _Record] = {}
        self.budget = source.budget
        self.budget.operations.take(_ARCHIVE_OPERATIONS)
        stream = _DirectoryLimit(source.stream(), self.budget)
        try:
            with zipfile.ZipFile(cast(BinaryIO, stream)) as archive:
                infos = archive.infolist()
                _check_end(source, len(archive.comment), archive.start_dir, len(infos))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            reason = shortened(str(error), 60)
            if reason == "File is not a zip file":  # so says zipfile of what lacks its end
                reason = "its end is missing: an incomplete download?"
            raise BncheckError(f"is a damaged zip archive ({reason})", _DAMAGED) from None
        self.budget.held.take(_HELD_RECORD * len(infos))
        self.folder = _top_folder([info.orig_filename for info in infos])
        self._names = [info.orig_filename.removeprefix(self.folder) for info in infos]
        for name, info in zip(self._names, infos, strict=True):
            folded = name.lower()  # torch looks records up without regard to case
            if folded in self._records:
                raise BncheckError(
                    f"is a zip archive with two records named {name[:60]!r}",
                    "do not trust it; save it again with torch.save",
                )
            self._records[folded] = _Record(
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.CRC,
                info.compress_type != zipfile.ZIP_STORED,
                bool(info.flag_bits & 0x1),
                name.endswith("/") or bool(info.external_attr & _DOS_DIRECTORY),
            )

        # Each record is located by the header before it.
        headers = (record.header for record in self._records.values())
        self._source.ahead((header, _LOCAL_HEADER.size + _USUAL_NAME) for header in headers)

    @property
    def size(self) -> int:
        """Bytes of the archive."""
        return self._source.size

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._records

    @property
    def names(self) -> list[str]:
        """Every record's path below the top folder."""
        return list(self._names)

    def has_checksum(self, name: str) -> bool:
        """Whether a record has one; torch can be told to write none (crc32_options, skip_data)."""
        record = self._record(name)
        return bool(record.crc) or not record.size

    def source(self, name: str) -> Source:
        """The bytes of a stored record, in place."""
        record = self._record(name)
        if record.folder:
            raise BncheckError(
                f"has a record {name[:60]!r} that is marked as a folder, so torch reads nothing",
                "do not trust it; save it again with torch.save",
            )
        if record.compressed or record.encrypted:
            raise BncheckError(
                f"was repacked with compression or encryption (record {name[:60]!r}): "
                "torch.load(mmap=True) reads garbage from it",
                "unpack it and repack it with `zip -0 -r`, or load and save it with torch",
            )
        if record.stored != record.size:
            raise BncheckError(f"has a damaged zip directory (record {name[:60]!r})", _DAMAGED)
        return self._source.window(self._data_offset(name, record), record.size)

    def storage(self, name: str, big_endian: bool = False) -> Storage:
        """A stored record as raw numbers, its checksum to be held against a complete read."""
        return Storage(self.source(name), self._record(name).crc or None, big_endian)

    def read(self, name: str, limit: int) -> bytes:
        """A whole stored record of at most `limit` bytes, its checksum verified."""
        source = self.source(name)
        if source.size > limit:
            raise BncheckError(
                f"has a record {name[:60]!r} of {source.size:,} bytes (limit {limit:,})",
                "save the weights alone, as a state dict",
            )
        self.budget.read.take(source.size)
        self.budget.held.take(source.size)
        return self.storage(name).read(0, source.size)

    def within(self, data: bytes) -> Source:
        """A record that was read, as a source of the same checkpoint."""
        return self._source.within(data)

    def text(self, name: str) -> bytes:
        """A record of source code or JSON, inflated within the limits."""
        record = self._record(name)
        longest = max(record.size, record.stored)
        if longest > MAX_TEXT_RECORD_BYTES:
            raise BncheckError(
                f"holds {longest:,} bytes of source code or JSON (limit MAX_TEXT_RECORD_BYTES)",
                "check where it comes from",
            )
        self.budget.operations.take(longest // _TEXT_AN_OPERATION)
        if not record.compressed:
            return self.read(name, MAX_TEXT_RECORD_BYTES)
        packed = self._source.read(self._data_offset(name, record), record.stored)
        text = _inflated(packed, record.size or 1, name)
        if zlib.crc32(text) != record.crc:
            raise BncheckError(f"has a damaged record {name[:60]!r}", _DAMAGED)
        return text

    def beginning(self, name: str, length: int) -> bytes:
        """The first bytes of a record, inflated, or all there are; its checksum is not verified."""
        record = self._record(name)
        if record.compressed and not record.encrypted:
            offset = self._data_offset(name, record)
            packed = self._source.read(offset, min(record.stored, length))
            return _inflated(packed, length, name)
        return self.source(name).head(length)

    def inflated(self, name: str) -> bytes:
        """A whole record of numbers, as stored or inflated within the limit."""
        record = self._record(name)
        if not record.compressed or record.encrypted:
            storage = self.storage(name)
            return storage.read(0, storage.source.size)
        if record.size > MAX_EXPANDED_BYTES:
            raise BncheckError(
                f"holds a compressed record of {record.size:,} bytes (limit MAX_EXPANDED_BYTES)",
                "save it without compression",
            )
        packed = self._source.numbers(self._data_offset(name, record), record.stored)
        data = _inflated(packed, record.size or 1, name)
        if zlib.crc32(data) != record.crc:
            raise BncheckError(f"has a damaged record {name[:60]!r}", _DAMAGED)
        return data

    def _record(self, name: str) -> _Record:
        record = self._records.get(name.lower())
        if record is None:
            raise BncheckError(f"has no record {name[:60]!r}", _DAMAGED)
        return record

    def _data_offset(self, name: str, record: _Record) -> int:
        size = _LOCAL_HEADER.size
        # One read for the header and, nearly always, the name behind it: there are many records.
        left = self._source.size - record.header
        header = self._source.read(record.header, max(size, min(size + _USUAL_NAME, left)))
        magic: bytes
        name_length: int
        extra_length: int
        magic, name_length, extra_length = _LOCAL_HEADER.unpack_from(header)
        start = record.header + size
        local = header[size : size + name_length]
        if len(local) < name_length:
            local = self._source.read(start, name_length)
        same = local.lower().endswith(name.lower().encode("utf-8", "replace"))
        if magic != b"PK\x03\x04" or not same:
            raise BncheckError(
                f"is damaged: the zip directory and the record {name[:60]!r} disagree", _DAMAGED
            )
        return start + name_length + extra_length


def _inflated(packed: bytes, length: int, name: str) -> bytes:
    """At most `length` bytes."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, length)
    except zlib.error:
        raise BncheckError(f"has a damaged record {name[:60]!r}", _DAMAGED) from None


def _check_end(source: Source, comment: int, start: int, count: int) -> None:
    """Refuse a directory that is not what and where the archive's end says.

    zipfile takes all that lies right before the end, whatever the end says; torch goes where it
    says and reads as many records as it says, and could find others there, or fewer.
    """
    end = source.size - comment - _END.size
    mark, here, total, offset = _END.unpack(source.read(end, _END.size))
    sound = mark == b"PK\x05\x06"
    locator = source.read(max(end - _LOCATOR.size, 0), _LOCATOR.size)
    if locator.startswith(b"PK\x06\x07"):
        end64 = end - _LOCATOR.size - _END64.size
        mark, here, total, offset = _END64.unpack(source.read(end64, _END64.size))
        sound = sound and mark == b"PK\x06\x06" and _LOCATOR.unpack(locator)[0] == end64
    if not sound or offset != start:
        raise BncheckError("is a zip archive with other data before or after it", _DAMAGED)
    if (here, total) != (count, count):
        raise BncheckError(
            f"is a zip archive of {count} records whose directory counts {total}",
            "do not trust it; save it again with torch.save",
        )


def _top_folder(names: list[str]) -> str:
    """The folder that every record is in, with its slash; "" where there is none."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    if len(folders) != 1 or not all("/" in name for name in names):
        return ""
    return f"{folders.pop()}/"
