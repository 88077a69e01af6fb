"""Tensors that stay in the file until someone asks for their numbers."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_EXPANDED_BYTES
from bncheck.reading.dtypes import item_size, numpy_dtype
from bncheck.reading.roles import split_name
from bncheck.reading.source import Source

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

#: NumPy 1 stops at 32 axes, and 16 bytes an element must still be countable.
MOST_AXES: Final = 32
_MOST_ELEMENTS: Final = 1 << 58
_USUAL_SIZE: Final = 4  # bytes of a number
#: A large tensor that is gone through once is read in pieces of about so many bytes.
PIECE_BYTES: Final = 1 << 18


class LazyTensor(Protocol):
    """A tensor that can be read."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape, or None where finding out would mean opening another file."""
        ...

    @property
    def elements(self) -> int:
        """How many numbers it has; finding out may mean opening another file."""
        ...

    @property
    def cost(self) -> int:
        """About how many bytes reading it takes, as stored and as an array."""
        ...

    def read(self) -> Array:
        """The numbers, in the dtype they are stored in. Raises BncheckError where they are bad."""
        ...

    def pieces(self) -> Iterator[Array]:
        """The same, some rows of the first axis at a time where these can be read alone."""
        ...


@dataclass(slots=True)
class Storage:
    """A run of raw bytes in a file that tensors are views of. `crc` is None where unknown."""

    source: Source
    crc: int | None = None
    big_endian: bool = False

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the storage; a complete read is held against the checksum."""
        data = self.source.numbers(offset, length)
        self.check(length, lambda: zlib.crc32(data))
        return data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """The same into memory that is there: large tensors need not be copied."""
        self.source.read_into(offset, buffer)
        self.check(len(buffer), lambda: zlib.crc32(buffer))

    def check(self, length: int, crc: Callable[[], int]) -> None:
        """Hold the checksum of so many bytes, which may be all of it, against the file's own."""
        if self.crc is not None and length == self.source.size and crc() != self.crc:
            raise BncheckError(
                "is damaged: the checksum of a tensor's bytes is wrong", "download or copy it again"
            )

    def part(self, offset: int, length: int, unit: int) -> Storage:
        """The storage that begins `offset` units of `unit` bytes into this one."""
        return Storage(self.source.window(offset * unit, length * unit), None, self.big_endian)


def impossible_shape() -> BncheckError:
    """For sizes that no tensor can have."""
    return BncheckError("holds a tensor with an impossible shape", "save it again")


def checked_shape(sizes: Sequence[int]) -> tuple[int, ...]:
    """Refuse what NumPy could not even count: negative, too many or too large dimensions."""
    if len(sizes) > MOST_AXES or min(sizes, default=0) < 0 or any(s is True for s in sizes):
        raise impossible_shape()
    counted = sizes if 0 not in sizes else [size for size in sizes if size]
    if math.prod(counted) >= _MOST_ELEMENTS:
        raise impossible_shape()
    return tuple(sizes)


@lru_cache(maxsize=1 << 12)  # a file has thousands of tensors, and few shapes
def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, which is refused where its shape is impossible."""
    checked_shape(shape)
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@lru_cache(maxsize=1 << 12)
def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements of a storage lie from a view's first to its last."""
    checked_shape(shape)
    least, most = min(strides, default=0), max(strides, default=0)
    if least < 0 or most >= _MOST_ELEMENTS or len(shape) != len(strides):
        raise impossible_shape()
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))


def _damaged(what: str) -> BncheckError:
    return BncheckError(f"is damaged: {what}", "download or save it again")


@dataclass(slots=True)
class StridedTensor:
    """A strided view of a storage, as torch has them; `offset` and `strides` count elements."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        """Refuse a view that reaches outside its storage: it would show other tensors' bytes."""
        held = self.storage.source.size
        if self.offset < 0:
            raise _damaged("a tensor begins before its storage")
        if self._end > held and 0 not in self.shape:
            raise _damaged(f"a tensor needs {self._end} bytes, its storage holds {held}")

    @property
    def elements(self) -> int:
        """How many numbers it shows; with stride 0 more than it has."""
        return math.prod(self.shape)

    @property
    def cost(self) -> int:
        """Bytes of the storage from its first to its last number, or of the array."""
        size = item_size(self.dtype)
        return max(self._end - self.offset * size, self.elements * size)

    @property
    def located(self) -> tuple[Source, tuple[int, int]]:
        """The source that holds its numbers; their offset in the whole file, and their length."""
        start = self.offset * item_size(self.dtype)
        source = self.storage.source
        return source, (source.start + start, max(self._end - start, 0))

    @property
    def _end(self) -> int:
        return (self.offset + _reach(self.shape, self.strides)) * item_size(self.dtype)

    def read(self) -> Array:
        """A contiguous copy in native byte order."""
        import numpy as np

        dtype = numpy_dtype(self.dtype)
        wanted = self.elements * dtype.itemsize
        if not wanted:
            return np.empty(self.shape, dtype)
        start = self.offset * dtype.itemsize
        length = self._end - start
        if wanted > max(length, MAX_EXPANDED_BYTES):
            raise BncheckError(
                f"holds a tensor of {wanted:,} bytes in a storage of "
                f"{length:,} (limit MAX_EXPANDED_BYTES)",
                "save a contiguous copy of it",
            )
        stored = dtype.newbyteorder(">") if self.storage.big_endian else dtype
        array: Array = np.empty(self.shape, stored)
        if self.strides == row_major(
            self.shape
        ):  # as nearly all are: no second copy of what may be gigabytes
            self.storage.read_into(start, array.reshape(-1).view(np.uint8).data)
        else:
            steps = tuple(step * dtype.itemsize for step in self.strides)
            array[...] = np.ndarray(self.shape, stored, self.storage.read(start, length), 0, steps)
        return array if stored is dtype else array.astype(dtype)

    def pieces(self) -> Iterator[Array]:
        """Rows of a contiguous tensor; whether the checksum is right is known behind the last."""
        import numpy as np

        size = item_size(self.dtype)
        contiguous = self.strides == row_major(self.shape) and not self.storage.big_endian
        if not contiguous or self.elements * size <= PIECE_BYTES:
            yield self.read()
            return
        crc = 0
        for start, stop in _row_ranges(self.shape, size):
            offset, shape = self.offset + start * self.strides[0], (stop - start, *self.shape[1:])
            piece = replace(self, shape=shape, offset=offset).read()
            if self.storage.crc is not None:
                crc = zlib.crc32(piece.reshape(-1).view(np.uint8).data, crc)
            yield piece
        self.storage.check(self.elements * size, lambda: crc)


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A piece of a tensor that lies in a file as it is: `place` in the whole, and its numbers.

    `archive` is where the zip archive that holds it lies in the file, where that is not all of it.
    """

    place: tuple[slice, ...]
    tensor: LazyTensor
    archive: Source | None = None


@dataclass(slots=True)
class LoadedTensor:
    """A tensor whose reading is somebody else's affair (safetensors, onnx, a nested file).

    `parts` says where its bytes are, for formats in which they can be found. `rows` reads some rows
    of the first axis alone.
    """

    load: Callable[[], Array]
    shape: tuple[int, ...] | None = None
    parts: Callable[[], list[StoredPart]] | None = None
    rows: Callable[[int, int], Array] | None = None

    @property
    def elements(self) -> int:
        """By its shape, or that of its parts; 0 where it is unknown, and so unreadable."""
        if self.shape is not None:
            return math.prod(self.shape)
        return sum(part.tensor.elements for part in self.parts()) if self.parts else 0

    @property
    def cost(self) -> int:
        """That of its parts, or about as much as its numbers take."""
        if self.parts:
            return sum(part.tensor.cost for part in self.parts())
        return self.elements * _USUAL_SIZE

    def read(self) -> Array:
        """What `load` gives."""
        return self.load()

    def pieces(self) -> Iterator[Array]:
        """What `rows` gives, or all at once."""
        if self.rows is None or not self.shape or self.cost <= PIECE_BYTES:
            yield self.load()
            return
        for start, stop in _row_ranges(self.shape, _USUAL_SIZE):
            yield self.rows(start, stop)


def _row_ranges(shape: tuple[int, ...], item_bytes: int) -> Iterator[tuple[int, int]]:
    """The first axis in ranges of about PIECE_BYTES each."""
    step = max(1, PIECE_BYTES // (item_bytes * max(1, math.prod(shape[1:]))))
    return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _stored(tensor: LazyTensor) -> Iterator[StridedTensor]:
    """Where the bytes of a tensor are, if it is known without opening another file."""
    if isinstance(tensor, LoadedTensor) and tensor.parts and tensor.shape is not None:
        for part in tensor.parts():
            yield from _stored(part.tensor)
    elif isinstance(tensor, StridedTensor):
        yield tensor


@dataclass
class TensorMap(Mapping[str, "Array"]):
    """Names to arrays; an array is read when it is asked for, and asked for again, read again."""

    lazy: Mapping[str, LazyTensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.lazy[name].read()

    @cached_property
    def owners(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Owner -> pairs of own name and tensor name: `bn.weight` and `bn/weight` have one."""
        owners: dict[str, list[tuple[str, str]]] = {}
        for name in self.lazy:
            owner, own_name = split_name(name)
            owners.setdefault(owner, []).append((own_name, name))
        return owners

    def ahead(self, names: Iterable[str]) -> None:
        """Say what will be read: of a remote file it is fetched at once, not piece by piece."""
        by_file: dict[int, tuple[Source, list[tuple[int, int]]]] = {}
        for name in names:
            for part in _stored(self.lazy[name]):
                if not part.storage.source.is_far:
                    continue
                source, place = part.located
                whole = Source(source.file, source.budget)
                by_file.setdefault(id(source.file), (whole, []))[1].append(place)
        for source, places in by_file.values():
            source.ahead(places)

    def __contains__(self, name: object) -> bool:
        return name in self.lazy

    def __iter__(self) -> Iterator[str]:
        return iter(self.lazy)

    def __len__(self) -> int:
        return len(self.lazy)
