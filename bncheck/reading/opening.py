"""Open any checkpoint: find out what it is, read it, choose the model in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from bncheck.errors import BncheckError
from bncheck.reading import sniff
from bncheck.reading.checkpoint import Checkpoint, Container, Subtree
from bncheck.reading.distributed import METADATA, read_distributed
from bncheck.reading.safetensors_file import looks_like_safetensors, read_index, read_safetensors
from bncheck.reading.selection import alternatives, choose, shared_prefix
from bncheck.reading.source import Source
from bncheck.reading.tensors import LazyTensor, TensorMap
from bncheck.reading.torch_files import LEGACY_MAGIC, ZIP_MAGIC, read_legacy, read_plain, read_zip
from bncheck.reading.tree import find_subtrees
from bncheck.reading.zip_archive import ZipArchive

#: What a Hugging Face folder calls its weights, best first.
_HF_WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_WEIGHT_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt2", ".onnx", ".tar", ".th")


def open_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """Open a checkpoint file or folder without executing anything in it.

    `key` names the subtree to take ("ema", "state_dict.generator"); without it, the one with the
    most running statistics is taken. Tensors are read when they are asked for.
    Raises BncheckError, with the path as its subject, for anything that cannot be read.
    """
    path = Path(path)
    try:
        container, subtrees = _read(path)
        chosen = choose(subtrees, key)
        return Checkpoint(
            path,
            container,
            chosen.path,
            shared_prefix(list(chosen.tensors)),
            TensorMap(chosen.tensors),
            chosen.modules,
            alternatives(subtrees, chosen),
        )
    except BncheckError as error:
        raise error.about(str(path)) from None
    except OSError as error:
        raise BncheckError(
            f"cannot be read ({error.strerror or error})", "check its permissions", str(path)
        ) from None
    except RecursionError:
        raise BncheckError("nests its content too deeply", "save it again", str(path)) from None


def _read(path: Path) -> tuple[Container, list[Subtree]]:
    if os.path.isdir(path):  # unlike is_dir, False for any name
        return _read_folder(path)
    source = Source.open(path)
    if path.name.endswith(".index.json") and source.head(1) == b"{":
        container = (
            Container.TORCH_SHARDED if ".bin." in path.name else Container.SAFETENSORS_SHARDED
        )
        return container, read_index(path, _read_shard)
    return _read_file(source, path)


def _read_file(source: Source, path: Path) -> tuple[Container, list[Subtree]]:
    if looks_like_safetensors(source):
        return Container.SAFETENSORS, read_safetensors(source, path)
    sniff.refuse_stranger(source)
    head = source.head(len(LEGACY_MAGIC))
    if head.startswith(ZIP_MAGIC):
        return _read_zip(ZipArchive(source))
    if head == LEGACY_MAGIC:
        return Container.TORCH_LEGACY, find_subtrees(read_legacy(source))
    if sniff.looks_like_pickle(source):
        return Container.PICKLE, find_subtrees(read_plain(source))
    if sniff.may_be_old_pickle(source):
        with contextlib.suppress(BncheckError):
            return Container.PICKLE, find_subtrees(read_plain(source))
    from bncheck.reading.onnx_file import read_onnx

    onnx = read_onnx(source, path)
    if onnx is None:
        sniff.refuse_unknown(source)
    return Container.ONNX, onnx


def _read_zip(archive: ZipArchive) -> tuple[Container, list[Subtree]]:
    from bncheck.reading.exported_program import is_exported_program, read_exported_program
    from bncheck.reading.torchscript import read_torchscript

    if is_exported_program(archive):
        return Container.EXPORTED_PROGRAM, read_exported_program(archive)
    if "data.pkl" not in archive:
        sniff.refuse_zip(archive)
    if "constants.pkl" in archive:
        return Container.TORCHSCRIPT, read_torchscript(archive)
    return Container.TORCH_ZIP, find_subtrees(read_zip(archive))


def _read_folder(path: Path) -> tuple[Container, list[Subtree]]:
    if (path / METADATA).is_file():
        return Container.DISTRIBUTED, read_distributed(path)
    for name in _HF_WEIGHTS:
        if (path / name).is_file():
            return Container.HF_DIRECTORY, _read(path / name)[1]
    files = sorted(item.name for item in path.iterdir() if item.name.endswith(_WEIGHT_ENDINGS))
    hint = f"name a file in it, such as {files[0]!r}" if files else "check the path"
    raise BncheckError("is a folder without a checkpoint that bncheck knows", hint)


def _read_shard(path: Path) -> Mapping[str, LazyTensor]:
    _, subtrees = _read_file(Source.open(path), path)
    return choose(subtrees, None).tensors
