"""Open any checkpoint: find out what it is, read it, choose the model in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.timing import timed
from bncheck.reading import sniff
from bncheck.reading.checkpoint import Checkpoint, Container, Subtree
from bncheck.reading.foreign import refuse_foreign_folder
from bncheck.reading.nested import as_one_tree
from bncheck.reading.npz import is_npz, read_npz
from bncheck.reading.protobuf import may_be_graph
from bncheck.reading.referred import referred
from bncheck.reading.remote import Remote, place_of
from bncheck.reading.safetensors_file import looks_like_safetensors, read_safetensors
from bncheck.reading.selection import alternatives, by_interest, choose, shared_prefix
from bncheck.reading.shards import Shards
from bncheck.reading.source import Source
from bncheck.reading.tensors import LazyTensor, TensorMap
from bncheck.reading.torch_files import (
    LEGACY_MAGIC,
    ZIP_MAGIC,
    Pickled,
    read_legacy,
    read_plain,
    read_zip,
)
from bncheck.reading.tree import find_subtrees, plain_numbers
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
WEIGHT_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt2", ".onnx", ".tar", ".th")


@dataclass(frozen=True, slots=True)
class _Content:
    """What a file holds, before one of its subtrees is chosen."""

    container: Container
    subtrees: list[Subtree]
    numbers: Mapping[str, float] = field(default_factory=dict)
    shards: Shards | None = None

    @classmethod
    def of_pickle(cls, container: Container, pickled: Pickled) -> _Content:
        return cls(container, as_one_tree(find_subtrees(pickled)), plain_numbers(pickled))


@timed("reading the file")
def open_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """Open a checkpoint file or folder without executing anything in it.

    `key` names the subtree to take ("ema", "state_dict.generator"); without it, the one with the
    most running statistics is taken. Tensors are read when they are asked for.
    Raises BncheckError, with the path as its subject, for anything that cannot be read.
    """
    path, budget = place_of(path), Budget()
    try:
        content = _read(path, budget)
        chosen = choose(content.subtrees, key)
        if content.container is Container.RECORD and not chosen.tensors:
            raise BncheckError(
                "is a record of a network without normalisation layers",
                "`bncheck drift` shows how its layers moved",
            )
        return Checkpoint(
            path,
            content.container,
            chosen.path,
            shared_prefix(list(chosen.tensors)),
            TensorMap(chosen.tensors),
            chosen.modules,
            alternatives(content.subtrees, chosen),
            content.numbers,
            budget,
            content.shards,
            chosen.program,
            chosen.aliases,
            chosen.listing,
            chosen.training,
            chosen.folded,
        )
    except BncheckError as error:
        raise error.about(str(path)) from None
    except OSError as error:
        raise BncheckError(
            f"cannot be read ({error.strerror or error})", "check its permissions", str(path)
        ) from None
    except RecursionError:
        raise BncheckError("nests its content too deeply", "save it again", str(path)) from None


def keys_in(path: str | Path) -> list[str]:
    """The keys of a checkpoint on this machine, models first. Raises BncheckError."""
    try:
        return by_interest(_read(Path(path), Budget()).subtrees)
    except (OSError, RecursionError) as error:
        raise BncheckError(f"cannot be read ({type(error).__name__})", "", str(path)) from None


def unlisted_tensors(checkpoint: Checkpoint) -> list[str]:
    """What lies in its shards beside the tensors that its index lists; [] where it has none."""
    return checkpoint.shards.unlisted() if checkpoint.shards else []


def _read(path: Path, budget: Budget) -> _Content:
    if _is_folder(path):
        return _read_folder(path, budget)
    source = Source.open(path, budget)
    if path.name.endswith(".index.json") and source.head(1) == b"{":
        container = (
            Container.TORCH_SHARDED if ".bin." in path.name else Container.SAFETENSORS_SHARDED
        )
        shards = Shards(path, source, _read_shard)
        return _Content(container, [Subtree("", shards.tensors())], shards=shards)
    return _read_file(source, path)


def _read_file(source: Source, path: Path) -> _Content:
    content = _by_its_beginning(source, path)
    if content is not None:
        if may_be_graph(source):
            raise BncheckError(
                f"is both {content.container.value} and an ONNX model, depending on the loader",
                "do not trust it; save each of them separately",
            )
        return content
    from bncheck.reading.onnx_file import read_onnx

    onnx = read_onnx(source, path)
    if onnx is None:
        sniff.refuse_unknown(source, path)
    return _Content(Container.ONNX, onnx)


def _by_its_beginning(source: Source, path: Path) -> _Content | None:
    """The content of a file whose first bytes say what it is; those of ONNX say nothing."""
    if looks_like_safetensors(source):
        return _Content(Container.SAFETENSORS, read_safetensors(source))
    sniff.refuse_stranger(source)
    head = source.head(len(LEGACY_MAGIC))
    if head.startswith(ZIP_MAGIC):
        return _read_zip(ZipArchive(source))
    if head == LEGACY_MAGIC:
        return _Content.of_pickle(Container.TORCH_LEGACY, read_legacy(source))
    if sniff.looks_like_pickle(source):
        return _Content.of_pickle(Container.PICKLE, read_plain(source))
    if sniff.may_be_old_pickle(source):
        with contextlib.suppress(BncheckError):
            return _Content.of_pickle(Container.PICKLE, read_plain(source))
    return None


def _read_zip(archive: ZipArchive) -> _Content:
    if sniff.is_exported_program(archive):
        from bncheck.reading.exported_program import read_exported_program

        return _Content(Container.EXPORTED_PROGRAM, read_exported_program(archive))
    if is_npz(archive):
        return _Content(Container.NPZ, read_npz(archive))
    if "data.pkl" not in archive:
        sniff.refuse_zip(archive)
    if "constants.pkl" in archive:
        from bncheck.reading.torchscript import read_torchscript

        return _Content(Container.TORCHSCRIPT, read_torchscript(archive))
    return _Content.of_pickle(Container.TORCH_ZIP, read_zip(archive))


def _is_folder(path: Path) -> bool:
    # Unlike is_dir, isdir is False for any name.
    return path.is_dir() if isinstance(path, Remote) else os.path.isdir(path)


def weights_in(folder: Path) -> list[str]:
    """The files that one loader reads a folder's checkpoint from; [] where it holds none.

    An index stands for its shards. Raises BncheckError where loaders differ in what they read.
    """
    from bncheck.reading.distributed import METADATA
    from bncheck.reading.record import INDEX

    has = _holding(folder)
    if has(METADATA):
        return [METADATA, *sorted(p.name for p in folder.iterdir() if p.suffix == ".distcp")]
    if has(INDEX):
        return [INDEX, *sorted(p.name for p in folder.iterdir() if p.suffix == ".safetensors")]
    for name in _HF_WEIGHTS:
        if has(name):
            whole = name.removesuffix(".index.json")
            if whole != name and has(whole):  # transformers and diffusers differ
                raise BncheckError(
                    f"holds {whole!r} and {name!r}, and libraries differ in which they load",
                    "name the one you mean",
                )
            return [name]
    return []


def _holding(folder: Path) -> Callable[[str], bool]:
    if isinstance(folder, Remote):  # one listing instead of a question for each name
        return {path.name for path in folder.iterdir()}.__contains__
    return lambda name: (folder / name).is_file()


def _read_folder(path: Path, budget: Budget) -> _Content:
    from bncheck.reading.distributed import METADATA, read_distributed
    from bncheck.reading.record import INDEX

    names = weights_in(path)
    if names[:1] == [METADATA]:
        return _Content(Container.DISTRIBUTED, read_distributed(path, budget))
    if names[:1] == [INDEX]:
        return _Content(Container.RECORD, _newest_snapshot(path, budget))
    if names:
        return replace(_read(referred(path, names[0]), budget), container=Container.HF_DIRECTORY)
    refuse_foreign_folder(path)
    files = sorted(item.name for item in path.iterdir() if item.name.endswith(WEIGHT_ENDINGS))
    hint = f"name a file in it, such as {files[0]!r}" if files else "check the path"
    raise BncheckError("is a folder without a checkpoint that bncheck knows", hint)


def _newest_snapshot(folder: Path, budget: Budget) -> list[Subtree]:
    """What a record holds last: the model, its batches, and other models by their names."""
    from bncheck.reading.record import newest_files, read_record

    found = []
    for name, path in newest_files(read_record(folder, budget)):
        for tree in read_safetensors(Source.open(path, budget)):
            key = ".".join(filter(None, (name, tree.path)))
            found.append(replace(tree, path=key, main=not key))
    if not found:
        raise BncheckError("is a record without a snapshot", "wait until there is one")
    return found


def _read_shard(path: Path, budget: Budget) -> Mapping[str, LazyTensor]:
    """The tensors of a shard: loaders take what is at its root, whatever it holds besides."""
    subtrees = _read_file(Source.open(path, budget), path).subtrees
    return next((tree.tensors for tree in subtrees if not tree.path), {})
