"""NumPy archives of weights, as Chainer, Flax and Haiku programs write them: an array a record."""

from __future__ import annotations

import io
import re
from functools import partial
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError, quoted
from bncheck.reading.checkpoint import Subtree
from bncheck.reading.roles import looks_like_a_statistic, split_name
from bncheck.reading.tensors import LazyTensor, LoadedTensor, checked_shape
from bncheck.reading.zip_archive import ZipArchive

if TYPE_CHECKING:
    import numpy as np

    from bncheck.reading.tensors import Array

_ENDING: Final = ".npy"
#: numpy goes by it, not by the ending.
_MAGIC: Final = b"\x93NUMPY"
_LONGEST_HEADER: Final = 4096
_KERAS: Final = re.compile(r"(?:^|[./])vars[./]\d+$")
_STATISTICS: Final = frozenset(("mean", "var", "average"))


def is_npz(archive: ZipArchive) -> bool:
    """Whether it holds arrays, statistics among them: an archive of data is not a checkpoint."""
    names = [name.removesuffix(_ENDING) for name in archive.names if name.endswith(_ENDING)]
    own_names = {split_name(name)[1] for name in names}
    return "data.pkl" not in archive and (
        any(looks_like_a_statistic(own) for own in own_names)
        or not own_names.isdisjoint(_STATISTICS)
        or any(_KERAS.search(name) for name in names)
    )


def read_npz(archive: ZipArchive) -> list[Subtree]:
    """All arrays of the archive; those of Python objects are refused when they are asked for."""
    tensors: dict[str, LazyTensor] = {}
    for record in archive.names:
        if not record.endswith(_ENDING) and archive.beginning(record, len(_MAGIC)) != _MAGIC:
            raise BncheckError(
                f"holds arrays and {quoted(record)}, which is none: another loader may read that",
                "save the arrays alone with numpy.savez",
            )
        archive.budget.tensors.take(1)
        name = archive.folder + record.removesuffix(_ENDING)
        if name in tensors:  # numpy takes the record without an ending
            raise BncheckError(f"holds two arrays called {quoted(name)}", "save it again")
        tensors[name] = _array(archive, record)
    return [Subtree("", tensors)]


def _array(archive: ZipArchive, record: str) -> LazyTensor:
    head = archive.beginning(record, _LONGEST_HEADER)
    shape, fortran, dtype, start = _header(head, record)
    return LoadedTensor(partial(_read, archive, record, shape, fortran, dtype, start), shape)


def _header(head: bytes, record: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    import numpy as np

    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(stream, max_header_size=_LONGEST_HEADER)
    except (ValueError, KeyError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise BncheckError(
            f"has a damaged array {record[:60]!r}", "download or copy it again"
        ) from None
    return checked_shape(shape), fortran, dtype, stream.tell()


def _read(
    archive: ZipArchive, record: str, shape: tuple[int, ...], fortran: bool,
    dtype: np.dtype[np.generic], start: int,
) -> Array:  # fmt: skip
    import numpy as np

    if dtype.hasobject or dtype.kind not in "fiubc" or dtype.names or dtype.subdtype:
        raise BncheckError("holds an array of a kind that bncheck does not read", "save numbers")
    raw = archive.inflated(record)[start:]
    if len(raw) != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise BncheckError("holds an array whose bytes do not fit its shape", "save it again")
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype=dtype.newbyteorder("="))
