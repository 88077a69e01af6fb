"""One budget a checkpoint: what it stops is named, and what is honest never meets it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_LAYERS
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.opening import open_checkpoint, unlisted_tensors
from bncheck.reading.source import Source
from tests.hostile.repetition import chunks, of_layer, packed, safetensors_of, sharded

_NOTHING_GIVEN = Assumptions()
#: What an honest file of an unusual size may take of each limit.
_SHARE = 0.7


def _inspected(path: Path) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    find_layers(checkpoint, _NOTHING_GIVEN)
    assert unlisted_tensors(checkpoint) == []
    return checkpoint


def _state(layers: int) -> Iterator[tuple[str, torch.Tensor]]:
    for number in range(layers):
        prefix = f"backbone.stage{number // 100}.blocks.{number % 100}"
        yield f"{prefix}.conv.weight", torch.ones(1)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            yield f"{prefix}.bn.{name}", torch.ones(1)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_3000_layers_leave_room(kind: str, tmp_path: Path) -> None:
    path, state = tmp_path / "model", dict(_state(3_000))
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    _leaves_room(_inspected(path), _SHARE * 3_000 / MAX_LAYERS)


def test_500_shards_leave_room(tmp_path: Path) -> None:
    def write(path: Path, number: int) -> None:
        path.write_bytes(
            safetensors_of([*of_layer(number), *(f"w{number}.{n}" for n in range(98))])
        )

    checkpoint = open_checkpoint(sharded(tmp_path, 500, write, "safetensors"))
    assert len(find_layers(checkpoint, _NOTHING_GIVEN)) == 500
    assert len(unlisted_tensors(checkpoint)) == 49_000
    _leaves_room(checkpoint)


def test_thousands_of_chunks_leave_room(tmp_path: Path) -> None:
    inner = packed(0)
    _leaves_room(_inspected(chunks(tmp_path, 4_000, inner, copies=4_000)))


def _leaves_room(checkpoint: Checkpoint, most: float = _SHARE) -> None:
    shares = {name: 1 - item.left / item.most for name, item in vars(checkpoint.budget).items()}
    assert max(shares.values()) < most, shares


def test_what_was_hit_stays_hit() -> None:
    budget = Budget()
    with pytest.raises(BncheckError, match=r"MAX_FILES"):
        budget.files.take(budget.files.most + 1)
    with pytest.raises(BncheckError, match=r"MAX_FILES"):
        budget.check()


def test_shards_that_were_not_looked_at_are_not_sound(tmp_path: Path) -> None:
    """The first shard is good, and what lies in the second would take too much to know."""
    index = sharded(
        tmp_path, 2, lambda path, n: path.write_bytes(safetensors_of(of_layer(n))), "safetensors"
    )
    checkpoint = open_checkpoint(index)
    checkpoint.budget.files.left = 1
    with pytest.raises(BncheckError, match=r"needs more than 10,000 files \(limit MAX_FILES\)"):
        find_layers(checkpoint, _NOTHING_GIVEN)


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    budget, sources = Budget(), []
    for number in range(200):
        (tmp_path / f"{number}").write_bytes(b"%03d" % number)
        sources.append(Source.open(tmp_path / f"{number}", budget))
    own = [os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors()]
    assert sum(link.startswith(str(tmp_path)) for link in own) <= 64
    assert [source.read(0, 3) for source in sources] == [b"%03d" % n for n in range(200)]


def _descriptors() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


def test_a_file_that_is_opened_again_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"one")
    source = Source.open(path, Budget())
    source.file.close()  # type: ignore[union-attr]
    (tmp_path / "other").write_bytes(b"two")
    (tmp_path / "other").rename(path)
    with pytest.raises(BncheckError, match="was replaced while it was read"):
        source.read(0, 3)
