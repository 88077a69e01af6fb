"""What an index of shards leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint, unlisted_tensors
from tests.zoo.registry import BUILDERS

SHARDED = [name for name in BUILDERS if "sharded" in name or name == "hf-diffusers"]
ENDINGS = ("safetensors", "bin")


def _write(folder: Path, ending: str, weight_map: dict[str, int]) -> Path:
    """Two shards with both layers in each; the index gives each tensor to one of them, or none."""
    shards = [f"model-{number}.{ending}" for number in range(2)]
    for number, shard in enumerate(shards):
        tensors = {
            f"{layer}.{role}": torch.full((4,), number + 2.0)  # not 1, which BN118 finds
            for layer in ("a", "b")
            for role in ("running_mean", "running_var")
        }
        if ending == "bin":
            torch.save(tensors, folder / shard)
        else:
            safetensors.torch.save_file(tensors, folder / shard)
    index = folder / f"model.{ending}.index.json"
    named = {name: shards[number] for name, number in weight_map.items()}
    index.write_text(json.dumps({"weight_map": named}))
    return index


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_the_index_leaves_out_is_said(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = _write(tmp_path, ending, {"a.running_mean": 0, "a.running_var": 0})
    left = unlisted_tensors(open_checkpoint(index))
    assert left == ["b.running_mean", "b.running_var"]  # the other shard is not named at all
    assert run(["inspect", str(index)]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ignoring b.running_mean and 1 more: the index" in err


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_second_copy_in_another_shard_is_said(ending: str, tmp_path: Path) -> None:
    places = {"a.running_mean": 0, "a.running_var": 1, "b.running_mean": 0, "b.running_var": 1}
    left = unlisted_tensors(open_checkpoint(_write(tmp_path, ending, places)))
    assert sorted(left) == sorted(places)


@pytest.mark.parametrize("name", SHARDED)
def test_healthy_shards_are_listed_completely(name: str, tmp_path: Path) -> None:
    assert unlisted_tensors(open_checkpoint(BUILDERS[name](tmp_path).path)) == []


def test_a_shard_that_cannot_be_read_does_not_matter_here(tmp_path: Path) -> None:
    index = _write(tmp_path, "bin", {"a.running_mean": 0, "a.running_var": 0, "fc.weight": 1})
    (tmp_path / "model-1.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert unlisted_tensors(open_checkpoint(index)) == ["b.running_mean", "b.running_var"]


def test_of_a_shard_only_its_root_is_taken(tmp_path: Path) -> None:
    """As loaders do, however many more layers lie below it."""
    index = _write(tmp_path, "bin", {"a.running_mean": 0, "a.running_var": 0})
    names = [f"{layer}.{role}" for layer in "abc" for role in ("running_mean", "running_var")]
    seen = {"a.running_mean": torch.zeros(4), "a.running_var": torch.full((4,), -1.0)}
    below = {name: torch.ones(4) for name in names}
    torch.save({**seen, "below": below}, tmp_path / "model-0.bin")
    found = open_checkpoint(index).tensors
    assert found["a.running_var"].tolist() == [-1.0] * 4


def test_of_absent_shards_the_first_is_named(tmp_path: Path) -> None:
    """Not whichever comes first in a set, which differs from run to run."""
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {f"l{number}.weight": f"s{number}" for number in range(100)}
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BncheckError, match="file 's0' that does not exist"):
        open_checkpoint(str(index))
