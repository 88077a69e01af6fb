"""Large files, which are nearly all convolution."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from tests.zoo.states import State, statistics


def write_large(path: Path, form: str, megabytes: int) -> State:
    """A checkpoint that is nearly all convolution; `form` is zip, legacy or safetensors."""
    size = megabytes * (1 << 20) // 4 // 8
    content = {f"conv{i}.weight": torch.empty(size) for i in range(8)} | statistics()
    if form == "safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return statistics()
