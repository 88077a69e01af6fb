"""Positional reads of one regular file.

Reads go through `read` rather than a memory map on purpose: a mapped file that someone truncates
kills the process with SIGBUS, while a short read is an error with a sentence. Only the bytes asked
for are read, and `bytes_read` counts them.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.reading.remote import Remote, StandardInput, what_is_meant

if TYPE_CHECKING:
    import numpy as np
    from _typeshed import WriteableBuffer
    from numpy.typing import NDArray

    from bncheck.reading.ranges import RemoteFile

#: Operations that opening a file takes, and reading a piece of it.
_OPENING: Final = 100
_READING: Final = 4
#: Files that are open at a time; macOS allows a process 256.
_MOST_OPEN: Final = 64


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe without a writer would block `open` for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unreadable(error: OSError) -> BncheckError:
    return BncheckError(f"cannot be read ({error.strerror or error})", "check the disk")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class SourceFile:
    """A regular file, and how many of its bytes were read.

    Only the last files that were opened are open: a checkpoint may have more shards than a process
    may open files. One that is opened again must be the same.
    """

    _opened: ClassVar[deque[SourceFile]] = deque()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_read = 0
        self._file: io.FileIO | None = None
        status = self._open()
        self.size = status.st_size
        self._identity = _identity(status)

    def _open(self) -> os.stat_result:
        path = self.path
        try:
            file = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115
        except FileNotFoundError:
            raise BncheckError("does not exist", what_is_meant(path)) from None
        except PermissionError:
            raise BncheckError("is not readable", "check its permissions") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BncheckError(f"cannot be opened ({reason})", "check the path") from None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise BncheckError("is not a regular file", "copy its content into a file first")
        self._file = file
        self._opened.append(self)
        if len(self._opened) > _MOST_OPEN:
            self._opened.popleft().close()
        return status

    def close(self) -> None:
        """Let go of the file; it is opened again when it is read again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _at(self, offset: int) -> io.FileIO:
        """The open file at this place."""
        if self._file is None and _identity(self._open()) != self._identity:
            raise BncheckError("was replaced while it was read", "wait for its writer to finish")
        assert self._file is not None
        self._file.seek(offset)
        return self._file

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, or what is left of the file."""
        try:
            file, parts = self._at(offset), []
            while length > 0 and (part := file.read(length)):
                parts.append(part)
                length -= len(part)
        except OSError as error:
            raise _unreadable(error) from None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.bytes_read += len(data)
        return data

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from `offset`; returns how many bytes were left to fill it with."""
        done = 0
        try:
            file = self._at(offset)
            while done < len(buffer) and (count := file.readinto(buffer[done:])):
                done += count
        except OSError as error:
            raise _unreadable(error) from None
        self.bytes_read += done
        return done


class MemoryFile:
    """Bytes that were read already, in the place of a file: a file inside a pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, or what is left."""
        return self._data[offset : offset + length]

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from `offset`; returns how many bytes were left to fill it with."""
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Source:
    """A window of a file: byte 0 of the window is byte `start` of the file.

    `budget` is that of the checkpoint; what is read is counted, but for the numbers of tensors.
    """

    def __init__(
        self,
        file: SourceFile | MemoryFile | RemoteFile,
        budget: Budget,
        start: int = 0,
        size: int | None = None,
    ) -> None:
        self.file = file
        self.budget = budget
        self.start = start
        self.size = file.size - start if size is None else size

    @classmethod
    def open(cls, path: Path, budget: Budget) -> Source:
        """Open `path`; anything but a regular file is refused without waiting for it."""
        budget.files.take(1)
        budget.operations.take(_OPENING)
        if isinstance(path, Remote):
            from bncheck.reading.ranges import RemoteFile

            return cls(RemoteFile(path, budget), budget)
        if isinstance(path, StandardInput):
            from bncheck.reading.standard_input import piped

            path = piped()
        return cls(SourceFile(path), budget)

    @contextlib.contextmanager
    def on_disk(self, head: int) -> Iterator[Path]:
        """The file for a library that wants a path, and looks at these first bytes alone."""
        if isinstance(self.file, SourceFile):
            yield self.file.path
            return
        from bncheck.reading.ranges import as_file

        assert not isinstance(self.file, MemoryFile)
        with as_file(self.file, head) as path:
            yield path

    def within(self, data: bytes) -> Source:
        """Bytes that were read from here already, as a source of the same checkpoint."""
        return Source(MemoryFile(data), self.budget)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset` of the window."""
        self.budget.operations.take(_READING)
        self.budget.read.take(length)
        return self.numbers(offset, length)

    def numbers(self, offset: int, length: int) -> bytes:
        """The same, of a tensor: a large model may be read as a whole."""
        self._check(offset, length)
        data = self.file.read_at(self.start + offset, length)
        if len(data) != length:
            raise _became_shorter()
        return data

    def array(self, offset: int, length: int) -> NDArray[np.uint8]:
        """The same, unchangeable: NumPy keeps them in large pages, which are quickly had."""
        import numpy as np

        self._check(offset, length)
        array = np.empty(length, np.uint8)
        self.read_into(offset, array.data)
        array.flags.writeable = False
        return array

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, of bytes, from `offset` of the window."""
        self._check(offset, len(buffer))
        if self.file.read_into(self.start + offset, buffer) != len(buffer):
            raise _became_shorter()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise BncheckError(
                f"is truncated: bytes {offset} to {offset + length} are needed, {self.size} "
                "are there",
                "download or copy it again",
            )

    @property
    def is_far(self) -> bool:
        """Whether the file is a remote one."""
        return not isinstance(self.file, (SourceFile, MemoryFile))

    def ahead(self, places: Iterable[tuple[int, int]]) -> None:
        """Fetch these, offsets and lengths, in one go where the file is a remote one."""
        if not isinstance(self.file, (SourceFile, MemoryFile)):
            self.file.ahead((self.start + offset, length) for offset, length in places)

    def head(self, length: int) -> bytes:
        """The first `length` bytes, or all there are."""
        return self.read(0, min(length, self.size))

    def window(self, offset: int, length: int) -> Source:
        """A smaller window; it must lie within this one."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise BncheckError(
                f"is truncated: a part of {length} bytes at {offset} ends beyond its "
                f"{self.size} bytes",
                "download or copy it again",
            )
        return Source(self.file, self.budget, self.start + offset, length)

    def stream(self, offset: int = 0) -> BinaryIO:
        """A buffered, seekable stream over the window."""
        stream = io.BufferedReader(_Raw(self), buffer_size=1 << 16)
        stream.seek(offset)
        return stream


def _became_shorter() -> BncheckError:
    return BncheckError("shrank while it was read", "wait for its writer to finish")


class _Raw(io.RawIOBase):
    """What `io.BufferedReader` needs to read a window."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        self._position = max(0, base[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._source.size - self._position))
        view[:length] = self._source.read(self._position, length)
        self._position += length
        return length
