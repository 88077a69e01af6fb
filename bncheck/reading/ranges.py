"""A remote file of which only the pieces that are asked for are fetched.

A checkpoint is read in many small pieces: a header, a directory, some hundred bytes for each layer.
They are fetched in blocks, neighbours in one request, and kept until the command ends.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_FETCHED_BYTES
from bncheck.reading.remote import Remote, attempt, filesystem, info_of
from bncheck.reading.temporary import temporary_folder
from bncheck.reading.web import NoPartsError, fetch_part

if TYPE_CHECKING:
    from bncheck.core.budget import Budget

BLOCK: Final = 1 << 16
#: Blocks that are fetched at once where a file is read from one end to the other.
_MOST_AHEAD: Final = 16
_MOST_KEPT: Final = 1024
#: Requests at a time where it is known what will be read.
_AT_ONCE: Final = 8
#: What is copied at a time.
_PIECE: Final = 1 << 23


class Fetched:
    """A remote file's blocks. `fetched` counts the bytes that came over the network."""

    def __init__(self, path: Remote) -> None:
        self.path = path
        self.fetched = 0
        info = info_of(path)
        if info["type"] == "directory":
            raise BncheckError("is a folder", "name a file in it")
        self._open = threading.local()
        self.has_ranges = info.get("size") is not None and self._sends_parts(info)
        self._local: IO[bytes] = _nothing() if self.has_ranges else _copied(self)
        self.size: int = info["size"] if self.has_ranges else os.fstat(self._local.fileno()).st_size
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._last, self._ahead = -1, 1

    def _sends_parts(self, info: dict[str, Any]) -> bool:
        """Whether a server sends a part of the file; one that does not say so is asked for one."""
        if "partial" in info or not self.path.scheme.startswith("http") or info["size"] < 2:
            return info.get("partial", True) is not False
        try:
            return len(attempt(self.path, lambda: fetch_part(self.path, 1, 2))) == 1
        except BncheckError as error:
            if isinstance(error.__cause__, NoPartsError):
                return False
            raise

    def read(self, offset: int, length: int, budget: Budget | None = None) -> bytes:
        """`length` bytes from `offset`, or what is left of the file."""
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        if not self.has_ranges:
            return os.pread(self._local.fileno(), end - offset, offset)
        first, last = offset // BLOCK, (end - 1) // BLOCK
        if last - first >= _MOST_AHEAD:  # a large tensor, which is read once
            return self._fetch(offset, end, budget)
        self._load(first, last, budget)
        data = b"".join(self._blocks[number] for number in range(first, last + 1))
        return data[offset - first * BLOCK : end - first * BLOCK]

    def _load(self, first: int, last: int, budget: Budget | None) -> None:
        """Have these blocks; those behind as well where the file is read in sequence."""
        missing = [number for number in range(first, last + 1) if number not in self._blocks]
        if missing:
            self._ahead = min(self._ahead * 2, _MOST_AHEAD) if missing[0] == self._last + 1 else 1
            stop = missing[-1] + 1
            while stop < missing[0] + self._ahead and stop not in self._blocks:
                stop += 1
            start, stop = missing[0] * BLOCK, min(stop * BLOCK, self.size)
            self._keep(start, self._fetch(start, stop, budget))
            self._last = (stop - 1) // BLOCK
        for number in range(first, last + 1):
            self._blocks.move_to_end(number)
        while len(self._blocks) > _MOST_KEPT:
            self._blocks.popitem(last=False)

    def ahead(self, places: Iterable[tuple[int, int]], budget: Budget) -> None:
        """Have the blocks of all these places, several requests at a time; as many as are kept."""
        wanted = sorted({b for o, n in places for b in (o // BLOCK, max(o, o + n - 1) // BLOCK)})
        missing = [b for b in wanted if b not in self._blocks and 0 <= b * BLOCK < self.size]
        runs = list(_runs(missing[:_MOST_KEPT]))
        if not self.has_ranges or len(runs) < 2:
            return
        ends = [(first * BLOCK, min((last + 1) * BLOCK, self.size)) for first, last in runs]
        budget.fetched.take(sum(end - start for start, end in ends))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(lambda run: self._asked(*run), ends)
            for (start, _), data in zip(ends, found, strict=True):
                self.fetched += len(data)
                self._keep(start, data)

    def _keep(self, start: int, data: bytes) -> None:
        for place in range(0, len(data), BLOCK):
            self._blocks[(start + place) // BLOCK] = data[place : place + BLOCK]

    def _fetch(self, start: int, end: int, budget: Budget | None) -> bytes:
        if budget is not None:
            budget.fetched.take(end - start)
        data = self._asked(start, end)
        self.fetched += len(data)
        return data

    def _asked(self, start: int, end: int) -> bytes:
        data = attempt(self.path, lambda: self._part(start, end))
        if len(data) != end - start:
            raise BncheckError("gives other bytes than were asked for", "try again", str(self.path))
        return data

    def _part(self, start: int, end: int) -> bytes:
        """One request."""
        if self.path.scheme.startswith("http"):
            return fetch_part(self.path, start, end)
        file = getattr(self._open, "file", None)
        if file is None:
            file = filesystem(self.path).open(str(self.path), "rb", cache_type="none")
            self._open.file = file
        file.seek(start)
        return bytes(file.read(end - start))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of blocks that one request is for: neighbours, and no more than at a time."""
    first = last = -1
    for number in numbers:
        if first >= 0 and (number > last + 1 or number - first >= _MOST_AHEAD):
            yield first, last
            first = number
        elif first < 0:
            first = number
        last = number
    if first >= 0:
        yield first, last


def _nothing() -> IO[bytes]:
    return io.BytesIO()


def _copied(fetched: Fetched) -> IO[bytes]:
    """The whole content in a file without a name: of a server that sends no parts."""
    path = fetched.path

    def copy() -> IO[bytes]:
        copied = tempfile.TemporaryFile()  # noqa: SIM115
        with filesystem(path).open(str(path), "rb", block_size=0) as opened:
            while piece := opened.read(_PIECE):
                copied.write(piece)
                fetched.fetched += len(piece)
                if fetched.fetched > MAX_FETCHED_BYTES:
                    raise BncheckError(
                        f"is on a server that sends no parts, and has more than "
                        f"{MAX_FETCHED_BYTES:,} bytes (limit MAX_FETCHED_BYTES)",
                        "download it",
                    )
        copied.flush()
        return copied

    return attempt(path, copy)


@cache
def fetched_file(path: Remote) -> Fetched:
    """The file at a URL, one for all that read it."""
    return Fetched(path)


class RemoteFile:
    """A remote file on the account of one checkpoint."""

    def __init__(self, path: Remote, budget: Budget) -> None:
        self._fetched = fetched_file(path)
        self._budget = budget
        self.size = self._fetched.size
        _USED.setdefault(path, self._fetched)

    def ahead(self, places: Iterable[tuple[int, int]]) -> None:
        """Have these places, offsets and lengths, before they are read."""
        self._fetched.ahead(places, self._budget)

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, or what is left of the file."""
        return self._fetched.read(offset, length, self._budget)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from `offset`; returns how many bytes were left to fill it with."""
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)


#: What was opened by this process.
_USED: dict[Remote, Fetched] = {}


def traffic(path: Remote) -> tuple[int, int]:
    """Bytes that were fetched of what the user named, and all that its files have."""
    named = str(path)
    used = [f for p, f in _USED.items() if str(p) == named or str(p).startswith(f"{named}/")]
    folder = named.rpartition("/")[0]
    if named.endswith(".index.json"):
        used += [f for p, f in _USED.items() if f not in used and str(p).startswith(f"{folder}/")]
    return sum(file.fetched for file in used), sum(file.size for file in used)


@contextlib.contextmanager
def as_file(file: RemoteFile, head: int) -> Iterator[Path]:
    """A file on disk with these first bytes and the right length, for a library that looks at
    nothing else; the rest is a hole that takes no space.
    """
    with tempfile.NamedTemporaryFile(dir=temporary_folder()) as made:
        made.write(file.read_at(0, head))
        made.flush()
        os.truncate(made.name, file.size)
        yield Path(made.name)
