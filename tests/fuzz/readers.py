"""One entrance for each reader: how bytes become a file, and good files to begin with."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "sample_models"


@dataclass(frozen=True)
class Reader:
    """`place` writes the bytes into a folder and returns what to open; `seeds` are good ones."""

    place: Callable[[bytes, Path], Path]
    seeds: Callable[[], list[bytes]]


def _file(data: bytes, folder: Path, name: str) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def _samples(*names: str) -> list[bytes]:
    return [(SAMPLES / name).read_bytes() for name in names]


def _plain(name: str, *samples: str) -> Reader:
    return Reader(partial(_file, name=name), partial(_samples, *samples))


def _records(sample: str) -> dict[str, bytes]:
    with zipfile.ZipFile(SAMPLES / sample) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pack(records: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return out.getvalue()


def _record(sample: str, ending: str, name: str) -> Reader:
    """The bytes become one record of a good archive, its checksum right."""
    records = _records(sample)
    key = next(record for record in records if record.endswith(ending))

    def place(data: bytes, folder: Path) -> Path:
        return _file(_pack({**records, key: data}), folder, name)

    return Reader(place, lambda: [records[key]])


def _beside(data: bytes, folder: Path, sample: str, name: str, opened: str) -> Path:
    """The bytes become one file of a good folder."""
    if not (folder / sample).exists():
        shutil.copytree(SAMPLES / sample, folder / sample)
    (folder / sample / name).write_bytes(data)
    return folder / sample / opened


def _in_folder(sample: str, name: str, opened: str) -> Reader:
    place = partial(_beside, sample=sample, name=name, opened=opened)
    return Reader(place, partial(_samples, f"{sample}/{name}"))


_INDEX = "model.safetensors.index.json"
READERS = {
    "archive": _plain("model.pt", "healthy.pt"),
    "pickle": _record("healthy.pt", "/data.pkl", "model.pt"),
    "module": _record("healthy-module.pt", "/data.pkl", "model.pt"),
    "legacy": _plain("model.pth", "healthy-legacy.pth"),
    "safetensors": _plain("model.safetensors", "healthy.safetensors"),
    "onnx": _plain("model.onnx", "healthy.onnx"),
    "program": _record("healthy.pt2", "models/model.json", "model.pt2"),
    "weights": _record("healthy.pt2", "model_weights_config.json", "model.pt2"),
    "torchscript": _record("healthy-torchscript.pt", "/data.pkl", "model.pt"),
    "code": _record("healthy-torchscript.pt", "batchnorm.py", "model.pt"),
    "index": _in_folder("healthy-sharded", _INDEX, _INDEX),
    "metadata": _in_folder("healthy-distributed", ".metadata", ""),
}
