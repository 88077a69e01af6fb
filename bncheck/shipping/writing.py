"""An ONNX model onto the disk: one file, or a file with its data beside it where that is too much.

A protobuf ends at 2 GB. The data's place is written in the model, relative to it and by the final
name, so the pair can be moved together.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data

from bncheck.limits import MAX_ONNX_BYTES
from bncheck.writing.atomic import check_target, replacing

#: Tensors below this stay in the model, so that its shapes can be inferred without the data.
_SMALL = 256


def data_path(path: Path) -> Path:
    """Where the data of a model go that is too large for one file."""
    return path.with_name(f"{path.name}.data")


def fits_one_file(model: onnx.ModelProto, limit: int = MAX_ONNX_BYTES) -> bool:
    """Whether a protobuf can hold it."""
    return int(model.ByteSize()) < limit


def write(model: onnx.ModelProto, path: Path, one_file: bool) -> tuple[int, str]:
    """Write it whole or not at all; bytes altogether, and the sha256 of the file at `path`."""
    if one_file:
        data = model.SerializeToString(deterministic=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return len(data), hashlib.sha256(data).hexdigest()
    beside = data_path(path)
    with pair(model, path) as (made, made_data), replacing(path) as temporary:
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        size = made.stat().st_size + made_data.stat().st_size
        os.replace(made, temporary)
        check_target(beside)
        os.replace(made_data, beside)
    return size, digest


@contextlib.contextmanager
def pair(model: onnx.ModelProto, path: Path) -> Iterator[tuple[Path, Path]]:
    """The model and its data under their final names in a temporary folder beside `path`."""
    with tempfile.TemporaryDirectory(prefix=f".{path.stem[:40]}.", dir=path.parent) as folder:
        split = onnx.ModelProto()
        split.CopyFrom(model)
        beside = data_path(path).name
        convert_model_to_external_data(split, location=beside, size_threshold=_SMALL)
        made = Path(folder) / path.name
        onnx.save_model(split, made)
        yield made, Path(folder) / beside
