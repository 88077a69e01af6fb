"""Sharded checkpoints, and folders as the Hugging Face hub leaves them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import safetensors.torch
import torch

from tests.zoo.layout import BUILDERS, Layout, layout, silent
from tests.zoo.states import State, arrays, state


def _halves() -> tuple[State, State]:
    """A net over two shards, the statistics of one layer apart from its weights."""
    whole = state()
    first = {k: v for k, v in whole.items() if k.startswith("conv") or k == "bn1.weight"}
    return first, {k: v for k, v in whole.items() if k not in first}


def _shards(folder: Path, stem: str, ending: str) -> Path:
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(_halves(), 1):
        name = f"{stem}-0000{number}-of-00002.{ending}"
        if ending == "safetensors":
            safetensors.torch.save_file(shard, folder / name)
        else:
            torch.save(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return index


def _sharded(folder: Path, stem: str, ending: str, container: str, whole_folder: bool) -> Layout:
    index = _shards(folder, stem, ending)
    path = folder if whole_folder else index
    return Layout(path, container, arrays(state()), silent())


for _id, _arguments in {
    "sharded-safetensors": ("model", "safetensors", "safetensors-sharded", False),
    "sharded-bin": ("pytorch_model", "bin", "torch-sharded", False),
    "hf-sharded-safetensors": ("model", "safetensors", "hf-directory", True),
    "hf-sharded-bin": ("pytorch_model", "bin", "hf-directory", True),
    "hf-diffusers": ("diffusion_pytorch_model", "safetensors", "hf-directory", True),
}.items():
    _stem, _ending, _container, _whole = _arguments
    BUILDERS[_id] = partial(
        _sharded, stem=_stem, ending=_ending, container=_container, whole_folder=_whole
    )


@layout
def hf_safetensors(folder: Path) -> Layout:
    (folder / "config.json").write_text("{}")
    safetensors.torch.save_file(state(), folder / "model.safetensors")
    return Layout(folder, "hf-directory", arrays(state()), silent())


@layout
def hf_bin(folder: Path) -> Layout:
    (folder / "config.json").write_text("{}")
    torch.save(state(), folder / "pytorch_model.bin")
    return Layout(folder, "hf-directory", arrays(state()), silent())


@layout
def hf_cache(folder: Path) -> Layout:
    """The hub's cache: every file is a link into a folder of blobs."""
    (folder / "blobs").mkdir()
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(state(), folder / "blobs" / "cafe")
    (snapshot / "model.safetensors").symlink_to("../../blobs/cafe")
    return Layout(snapshot, "hf-directory", arrays(state()), silent())
