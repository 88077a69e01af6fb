"""Distributed checkpoints that look sound and in which torch finds other numbers."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.hostile.case import READ, REFUSED, add
from tests.zoo.states import statistics

VAR = "model.bn.running_var"
BAD = -torch.ones(4)

#: A tensor is some pieces: (offset in it, what is stored there).
Pieces = list[tuple[int, Tensor]]


class Builder:
    """A checkpoint that torch writes, open to edits of everything that it says."""

    def __init__(self, folder: Path, pieces: dict[str, Pieces] | None = None) -> None:
        self.folder, self.data = folder, bytearray()
        self.metadata = Metadata({}, planner_data={}, storage_data={})
        state = {f"model.{name}": [(0, tensor)] for name, tensor in statistics().items()}
        for key, parts in (state | (pieces or {})).items():
            self.tensor(key, parts)

    def tensor(self, key: str, parts: Pieces) -> None:
        chunks = []
        for start, piece in parts:
            offsets = torch.Size([start] * piece.dim())
            self.metadata.storage_data[MetadataIndex(key, offsets)] = self.stored(piece)
            chunks.append(ChunkStorageMetadata(offsets, piece.shape))
        first = parts[0][1]
        size = torch.Size([sum(piece.numel() for _, piece in parts)] * first.dim())
        self.metadata.state_dict_metadata[key] = TensorStorageMetadata(
            TensorProperties(first.dtype), size, chunks
        )
        self.metadata.planner_data[key] = ("model", key.removeprefix("model."))

    def stored(self, piece: Tensor) -> _StorageInfo:
        buffer = io.BytesIO()
        torch.save(piece.clone(), buffer)
        start = len(self.data)
        self.data += buffer.getvalue()
        return _StorageInfo("__0_0.distcp", start, len(buffer.getvalue()))

    def write(self) -> Path:
        (self.folder / "__0_0.distcp").write_bytes(self.data)
        (self.folder / ".metadata").write_bytes(pickle.dumps(self.metadata, protocol=4))
        return self.folder


def load(folder: Path) -> dict[str, Tensor]:
    """What dcp.load puts into a model's state dict."""
    model = {name: torch.zeros_like(tensor) for name, tensor in statistics().items()}
    try:
        dcp.load({"model": model}, checkpoint_id=folder, no_dist=True)
    except CheckpointException as error:  # which is no Exception
        raise ValueError(str(error)) from None
    return model


def _described(made: Builder) -> TensorStorageMetadata:
    entry = made.metadata.state_dict_metadata[VAR]
    assert isinstance(entry, TensorStorageMetadata)
    return entry


def _hole(made: Builder) -> None:
    """Two halves over one another: torch leaves the other half as the memory was."""
    made.tensor(VAR, [(0, torch.ones(2)), (1, torch.ones(2))])
    _described(made).size = torch.Size([4])


def _moved(made: Builder) -> None:
    made.tensor(VAR, [(1, torch.ones(4))])


def _dtype(made: Builder) -> None:
    """300 as an int8 is 44, 200 is -56."""
    made.tensor(VAR, [(0, torch.full((4,), 200.0))])
    _described(made).properties.dtype = torch.int8


def _one_name(made: Builder) -> None:
    made.tensor("model.bn.other", [(0, BAD)])
    made.metadata.planner_data["model.bn.other"] = ("model", "bn.running_var")


def _hidden(made: Builder) -> None:
    """dcp.load takes the key, which is the bad one; by the path it is somebody else's."""
    made.tensor("spare", [(0, torch.ones(4))])
    made.tensor(VAR, [(0, BAD)])
    made.metadata.planner_data |= {VAR: ("x",), "spare": ("model", "bn.running_var")}


def _elsewhere(made: Builder) -> None:
    made.tensor("model.bad.running_mean", [(0, BAD)])
    made.tensor("model.bad.running_var", [(0, BAD)])
    for key in ("model.bad.running_mean", "model.bad.running_var"):
        made.metadata.planner_data[key] = (key,)


def _above(made: Builder) -> None:
    made.metadata.state_dict_metadata["model"] = BytesStorageMetadata()
    made.metadata.storage_data[MetadataIndex("model")] = made.stored(BAD)
    made.metadata.planner_data["model"] = ("model",)


def _extension(made: Builder) -> None:
    for info in made.metadata.storage_data.values():
        info.transform_descriptors = ["stream.zstd"]


Edit = Callable[[Builder], None]


def build(folder: Path, edit: Edit) -> Path:
    made = Builder(folder)
    edit(made)
    return made.write()


#: What torch loads, and finds other numbers in.
LIES: dict[str, tuple[str, Edit]] = {
    "hole": ("chunks that overlap and leave a hole", _hole),
    "moved": ("a chunk that begins behind the beginning", _moved),
    "dtype": ("a dtype that is not that of the stored numbers", _dtype),
    "one-name": ("two keys that planner_data gives one name", _one_name),
    "hidden": ("a statistic that planner_data puts elsewhere", _hidden),
    "elsewhere": ("a layer that planner_data takes out of its model", _elsewhere),
    "above": ("an object in the place of the whole model", _above),
}
for _name, (_what, _edit) in LIES.items():
    add(f"distributed-lie-{_name}", REFUSED, _what, partial(build, edit=_edit))
add("distributed-extension", REFUSED, "chunks that an extension has written",
    partial(build, edit=_extension))  # fmt: skip
add("distributed-lie-none", READ, "none: that the lies above are told of a good one",
    partial(build, edit=lambda made: None), weights=True)  # fmt: skip


def _twice(folder: Path, field: str, key: str) -> Path:
    """A key of a dict of .metadata twice: pickle takes the last, whose numbers are bad."""
    made = Builder(folder)
    made.tensor("model.spare", [(0, BAD)])
    path = made.write() / ".metadata"

    class Twice(dict[str, Any]):
        def __reduce__(self) -> Any:
            items = [*self.items(), (key, self["model.spare"])]
            return dict, (), None, None, iter(items)

    setattr(made.metadata, field, Twice(getattr(made.metadata, field)))
    path.write_bytes(pickle.dumps(made.metadata, protocol=4))
    return folder


for _field in ("state_dict_metadata", "planner_data"):
    add(f"distributed-lie-twice-in-{_field.replace('_', '-')}", REFUSED,
        f"{_field} with a key twice", partial(_twice, field=_field, key=VAR))  # fmt: skip
