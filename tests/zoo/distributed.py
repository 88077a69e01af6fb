"""Distributed checkpoints."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_saver as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.zoo.layout import Layout, layout, silent
from tests.zoo.states import arrays, quietly, state, statistics, trained


@layout
def distributed(folder: Path) -> Layout:
    model, optimizer = trained()
    content = {"model": model.state_dict(), "optimizer": optimizer, "epoch": 4}
    path = folder / "step-100"
    quietly(lambda: dcp.save(content, checkpoint_id=path, no_dist=True))
    return Layout(path, "distributed", arrays(model.state_dict()), silent(), key="model")


@layout
def distributed_flat(folder: Path) -> Layout:
    path = folder / "step-100"
    quietly(lambda: dcp.save(state(), checkpoint_id=path, no_dist=True))
    return Layout(path, "distributed", arrays(state()), silent())


def write_chunks(folder: Path, tensors: Mapping[str, tuple[Tensor, list[slice]]]) -> None:
    """A distributed checkpoint as several ranks leave it: each tensor cut along its first axis."""
    metadata, places = {}, {}
    for rank in range(2):
        (folder / f"__{rank}_0.distcp").write_bytes(b"")
    for name, (tensor, cuts) in tensors.items():
        chunks = []
        for rank, cut in enumerate(cuts):
            piece = tensor[cut].clone()
            offsets = torch.Size([cut.start, *[0] * (tensor.dim() - 1)])
            buffer = io.BytesIO()
            torch.save(piece, buffer)
            file = folder / f"__{rank % 2}_0.distcp"
            start, length = file.stat().st_size, len(buffer.getvalue())
            with file.open("ab") as out:
                out.write(buffer.getvalue())
            chunks.append(ChunkStorageMetadata(offsets, piece.shape))
            places[MetadataIndex(name, offsets)] = _StorageInfo(file.name, start, length)
        properties = TensorProperties(dtype=tensor.dtype)
        metadata[name] = TensorStorageMetadata(properties, tensor.shape, chunks)
    whole = Metadata(dict(metadata), storage_data=places)
    (folder / ".metadata").write_bytes(pickle.dumps(whole, protocol=4))


@layout
def distributed_in_chunks(folder: Path) -> Layout:
    expected = {**statistics(channels=8), "conv.weight": torch.rand(8, 3)}
    halves = [slice(0, 5), slice(5, 8)]
    write_chunks(folder, {name: (tensor, halves) for name, tensor in expected.items()})
    return Layout(folder, "distributed", arrays(expected), silent(["bn"]))
