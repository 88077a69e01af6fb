"""An ONNX model onto the disk: one file, or a file with its data beside it where that is too much.

A protobuf ends at 2 GB. The data's place is written in the model, relative to it and by the final
name, so the pair can be moved together.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data

from bncheck.core.limits import MAX_ONNX_BYTES
from bncheck.runtime.file import is_written, wire
from bncheck.runtime.weights import Weights, whole
from bncheck.writing.atomic import (
    check_read_back,
    check_target,
    explained,
    most_open,
    replacing,
    temporary_folder,
    usual_mode,
)

#: Tensors below this stay in the model, so that its shapes can be inferred without the data.
_SMALL = 256


@dataclass(frozen=True)
class Written:
    """Bytes altogether, the sha256 of the model's file, and where its data are if not in it."""

    size: int
    sha256: str
    data: Path | None = None


def write(
    model: onnx.ModelProto,
    weights: Weights,
    path: Path,
    limit: int = MAX_ONNX_BYTES,
    original: Path | None = None,
) -> Written:
    """Write it whole or not at all; what was at `path` before stays usable until then.

    As one file below `limit` bytes.

    Its permissions are no wider than those of `original`, the checkpoint.
    """
    pieces = wire(model, weights)
    size = sum(map(len, pieces))
    if size >= limit:
        del pieces
        return _write_pair(model, weights, path, original)
    digest = hashlib.sha256()
    with replacing(path, original) as temporary:
        with open(temporary, "wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        check_read_back(path, lambda: is_written(temporary, model, weights))
    return Written(size, digest.hexdigest())


def _write_pair(
    model: onnx.ModelProto, weights: Weights, path: Path, original: Path | None
) -> Written:
    """The old model keeps its data until the new one is there: two files never change at once.

    So the data get a name that is free, net.onnx.data or else net.onnx.1.data, and those of
    earlier models go at the end.
    """
    earlier = _data_of(path)
    beside = _beside(path, earlier)
    with pair(whole(model, weights), path, beside.name) as (made, made_data):
        check_read_back(path, lambda: is_written(made, model, weights))
        digest, size = _digest(made), made.stat().st_size + made_data.stat().st_size
        check_target(beside)
        try:
            with explained(beside):
                made_data.chmod(usual_mode(beside) & most_open(original, made_data))
                os.replace(made_data, beside)
            with replacing(path, original) as temporary:
                os.replace(made, temporary)
        except BaseException:
            if not path.exists() or _digest(path) != digest:  # an interrupt may come after the end
                beside.unlink(missing_ok=True)
            raise
    for name in earlier:
        with contextlib.suppress(OSError):
            name.unlink()
    return Written(size, digest, beside)


def _data_names(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.data")
    yield from (path.with_name(f"{path.name}.{n}.data") for n in itertools.count(1))


def _data_of(path: Path) -> list[Path]:
    """Data that earlier calls have written for a model at `path`."""
    ours = re.compile(rf"{re.escape(path.name)}(\.\d+)?\.data")
    return [other for other in path.parent.iterdir() if ours.fullmatch(other.name)]


def targets_of(path: Path) -> list[Path]:
    """All that a model at `path` may write, replace or remove."""
    with contextlib.suppress(OSError, ValueError):
        earlier = _data_of(path)
        return [path, *earlier, _beside(path, earlier)]
    return [path]


def _beside(path: Path, earlier: Sequence[Path]) -> Path:
    """The first name for data that is free."""
    return next(name for name in _data_names(path) if name not in earlier)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def pair(
    model: onnx.ModelProto, path: Path, data: str = "model.data"
) -> Iterator[tuple[Path, Path]]:
    """The model and its data, so named, in a temporary folder beside `path`."""
    with temporary_folder(path) as folder:
        with explained(path):
            split = onnx.ModelProto()
            split.CopyFrom(model)
            convert_model_to_external_data(split, location=data, size_threshold=_SMALL)
            onnx.save_model(split, folder / path.name)
        yield folder / path.name, folder / data
