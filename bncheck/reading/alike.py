"""Snapshots of one record: files that differ in their numbers and in what they say of a training.

What the reader of safetensors files has judged once holds for every file whose header goes on with
the same bytes after its metadata and which is as long: of the next, metadata and numbers are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bncheck.core.budget import Budget
from bncheck.core.limits import MAX_SAFETENSORS_HEADER_BYTES
from bncheck.reading.dtypes import numpy_dtype
from bncheck.reading.record_snapshot import METADATA, state_told, told_in
from bncheck.reading.safetensors_file import DTYPES
from bncheck.reading.source import Source
from bncheck.reading.training_state import TrainingState

_START: Final = '{"__metadata__":'
#: A header much longer than another one's is another kind of file.
_LONGER: Final = 4


@dataclass(frozen=True, slots=True)
class Form:
    """What files that are alike share: the header behind the metadata, and the length of the data.

    `modules` is what the metadata say of each layer but for its batch.
    """

    rest: str
    length: int
    modules: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Alike:
    """One file: its form, where the training was, and its numbers, one tensor behind the other."""

    form: Form
    training: TrainingState
    data: bytes


def read_alike(path: Path, like: Form | None) -> Alike | None:
    """The file, where it is like `like` (None: whatever it is like); None where it is not.

    Raises BncheckError for one that cannot be opened.
    """
    budget = Budget()
    source = Source.open(path, budget)
    length = int.from_bytes(source.head(8), "little")
    most = MAX_SAFETENSORS_HEADER_BYTES if like is None else _LONGER * (len(like.rest) + 4096)
    if length > min(most, source.size - 8):
        return None
    size = source.size - 8 - length
    if like is not None and size != like.length:
        return None
    try:
        metadata, rest = _split(source.read(8, length).decode())
        if like is not None and rest != like.rest:
            return None
        told = told_in(metadata.get(METADATA), budget)
    except (AttributeError, ValueError, RecursionError):
        return None
    if told is None:
        return None
    modules, training = state_told(told)
    if like is not None and modules != like.modules:
        return None
    form = like or Form(rest, size, modules)
    return Alike(form, training, source.numbers(8 + length, size))


def _split(header: str) -> tuple[Any, str]:
    """The metadata, and the text behind them; ValueError where they do not come first."""
    if not header.startswith(_START):
        raise ValueError
    metadata, end = json.JSONDecoder().raw_decode(header, len(_START))
    return metadata, header[end:].rstrip(" ")  # padded, so that numbers begin at a multiple of 8


def places(form: Form) -> dict[str, tuple[Any, int, int]]:
    """By tensor its NumPy dtype, its offset in the data in bytes, and how many numbers it has."""
    if not form.rest.startswith(","):
        return {}
    found = {}
    for name, entry in json.loads("{" + form.rest[1:]).items():
        if entry["dtype"] in DTYPES:
            dtype = numpy_dtype(DTYPES[entry["dtype"]])
            start, end = entry["data_offsets"]
            found[name] = (dtype, start, (end - start) // dtype.itemsize)
    return found
