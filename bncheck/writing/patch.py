"""A copy of a checkpoint in which some tensors hold other numbers, and nothing else differs.

The bytes are overwritten where they lie, so whatever else the file holds (an optimizer, a pickled
class, code) is copied without being understood, let alone executed. What was written is read
back and compared before it gets its name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from bncheck.core.errors import REPORT_IT, BncheckError
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.dtypes import numpy_dtype
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.source import SourceFile
from bncheck.reading.tensors import StridedTensor
from bncheck.writing import zip_checksums
from bncheck.writing.atomic import copied_mode, creating_folder, replacing, usual_mode
from bncheck.writing.sharing import aliases, parts_of

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class _Edit:
    """New numbers for one strided view of a file; `archive` is the zip around it, if any."""

    path: Path
    tensor: StridedTensor
    values: Array
    archive: tuple[int, int] | None

    @property
    def span(self) -> tuple[int, int]:
        """First byte in the file, and how many."""
        size = numpy_dtype(self.tensor.dtype).itemsize
        steps = zip(self.tensor.shape, self.tensor.strides, strict=True)
        last = sum((n - 1) * s for n, s in steps)
        return self.tensor.storage.source.start + self.tensor.offset * size, (last + 1) * size


def write_copy(checkpoint: Checkpoint, values: Mapping[str, Array], out: Path) -> None:
    """Write a copy of the checkpoint with these tensors' numbers changed, or nothing at all.

    Raises BncheckError for a layout whose numbers cannot be found in the file.
    """
    values = {**values, **_of_aliases(checkpoint, values)}
    edits = [edit for name, array in values.items() for edit in _edits(checkpoint, name, array)]
    if checkpoint.path.is_dir():
        with creating_folder(out, checkpoint.path) as temporary:
            copy_folder(checkpoint.path, temporary, [edit.path for edit in edits])
            _apply(edits, checkpoint.path, temporary)
            _verify(checkpoint, values, temporary)
            _close(checkpoint.path, temporary)
        return
    stray = [edit.path for edit in edits if edit.path.resolve() != checkpoint.path.resolve()]
    if stray:
        raise BncheckError(
            f"keeps its numbers in other files ({stray[0].name})",
            "give bncheck the folder instead of this file",
            str(checkpoint.path),
        )
    with replacing(out, checkpoint.path) as temporary:
        shutil.copyfile(checkpoint.path, temporary)
        _apply(edits, checkpoint.path, temporary)
        _verify(checkpoint, values, temporary)


def _of_aliases(checkpoint: Checkpoint, values: Mapping[str, Array]) -> dict[str, Array]:
    """The same numbers for the other names of these tensors."""
    found = aliases(checkpoint, values)
    return {name: values[other] for name, other in found.items() if name not in values}


def copy_folder(folder: Path, target: Path, weights: Iterable[Path]) -> None:
    """Copy the regular files of a folder.

    Links are followed where they lead into the folder itself or to where those of the weights do
    (the Hugging Face cache keeps files in a folder of blobs). A stranger's folder may also hold
    links to private files, to endless devices and to itself: these are refused.
    """
    home = os.path.realpath(folder)
    blobs = {os.path.dirname(os.path.realpath(path)) for path in weights}
    for place, folders, files in os.walk(folder):
        there = target / os.path.relpath(place, folder)
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                raise _stray(name)
            (there / name).mkdir()
        for name in files:
            real = os.path.realpath(os.path.join(place, name))
            parent = os.path.dirname(real)
            inside = parent in blobs or os.path.commonpath([home, parent]) == home
            if not inside or not os.path.isfile(real):
                raise _stray(name)
            shutil.copyfile(real, there / name)


def _close(folder: Path, copy: Path) -> None:
    """Give what is in the copy no wider permissions than it has in the folder."""
    for place, folders, files in os.walk(copy):
        for name in (*folders, *files):
            made = Path(place, name)
            original = folder / made.relative_to(copy)
            made.chmod(usual_mode(made) & copied_mode(original, made))


def _stray(name: str) -> BncheckError:
    return BncheckError(
        f"holds {name[:60]!r}, which links out of the folder or is not a regular file",
        "remove it from the folder",
    )


def _edits(checkpoint: Checkpoint, name: str, values: Array) -> list[_Edit]:
    found = []
    for part in parts_of(checkpoint.tensors.lazy[name]):
        tensor = part.tensor
        file = tensor.storage.source.file if isinstance(tensor, StridedTensor) else None
        if not isinstance(tensor, StridedTensor) or not isinstance(file, SourceFile):
            raise BncheckError(
                f"is a {checkpoint.container.value} file, in which {name} cannot be changed in "
                "place",
                "save the model with torch.save or safetensors, and recalibrate that file",
                str(checkpoint.path),
            )
        archive = None if part.archive is None else (part.archive.start, part.archive.size)
        piece = (values[part.place] if part.place else values).reshape(tensor.shape)
        found.append(_Edit(file.path, tensor, piece, archive))
    return found


def _apply(edits: list[_Edit], original: Path, copy: Path) -> None:
    """Overwrite the numbers in the copy, then put the checksums right."""
    for path in dict.fromkeys(edit.path for edit in edits):
        target = copy / path.relative_to(original) if original.is_dir() else copy
        own = [edit for edit in edits if edit.path == path]
        with open(target, "r+b") as file:
            for edit in own:
                _overwrite(file, edit)
            _update_checksums(file, own)


def _overwrite(file: IO[bytes], edit: _Edit) -> None:
    start, length = edit.span
    dtype = numpy_dtype(edit.tensor.dtype)
    stored = dtype.newbyteorder(">") if edit.tensor.storage.big_endian else dtype
    file.seek(start)
    raw = bytearray(file.read(length))
    steps = tuple(step * dtype.itemsize for step in edit.tensor.strides)
    view = np.ndarray(edit.tensor.shape, stored, raw, 0, steps)
    view[...] = edit.values.astype(dtype)
    file.seek(start)
    file.write(raw)


def _update_checksums(file: IO[bytes], edits: list[_Edit]) -> None:
    size = file.seek(0, 2)
    file.seek(0)
    whole = (0, size) if file.read(4) == _ZIP else None
    archives: dict[tuple[int, int], list[int]] = {}
    for edit in edits:
        archive = edit.archive or whole
        if archive is not None:
            archives.setdefault(archive, []).append(edit.span[0] - archive[0])
    for (start, length), places in archives.items():
        zip_checksums.update(zip_checksums.Window(file, start, length), places)


def _verify(checkpoint: Checkpoint, values: Mapping[str, Array], copy: Path) -> None:
    """Every tensor of the copy is the new one, or bit for bit the old."""
    written = open_checkpoint(copy, checkpoint.key or None)
    for name in checkpoint.tensors:
        old = checkpoint.tensors[name]
        wanted = values[name].astype(old.dtype).reshape(old.shape) if name in values else old
        if name not in written.tensors or written.tensors[name].tobytes() != wanted.tobytes():
            raise BncheckError(
                f"could not be copied faithfully (tensor {name[:80]})",
                f"{REPORT_IT}; nothing was written",
                str(checkpoint.path),
            )
