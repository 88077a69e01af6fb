"""Copies in which only the statistics differ, in every layout."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint
from bncheck.writing.patch import write_copy
from bncheck.writing.sharing import shared_elsewhere
from tests.planted import SAMPLES

LAYOUTS = ("healthy.pt", "healthy-legacy.pth", "healthy.safetensors", "healthy-sharded",
           "healthy-distributed", "healthy-module.pt", "healthy-torchscript.pt",
           "healthy.pt2")  # fmt: skip
MEAN, VAR, COUNTER = "bn2.running_mean", "bn2.running_var", "bn2.num_batches_tracked"


def new_values(prefix: str) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return {
        prefix + MEAN: np.linspace(-1, 1, 24),
        prefix + VAR: np.linspace(1, 2, 24),
        prefix + COUNTER: np.array(4711),
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_the_statistics_differ(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLES / name)
    values = new_values(checkpoint.prefix)
    write_copy(checkpoint, values, tmp_path / name)
    written = open_checkpoint(tmp_path / name)
    assert list(written.tensors) == list(checkpoint.tensors)
    for tensor in checkpoint.tensors:
        old, new = checkpoint.tensors[tensor], written.tensors[tensor]
        wanted = values[tensor].astype(old.dtype) if tensor in values else old
        assert new.tobytes() == wanted.tobytes(), tensor


@pytest.mark.parametrize("name", ["healthy.pt", "healthy-legacy.pth"])
def test_few_bytes_differ_and_torch_reads_the_copy(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLES / name)
    write_copy(checkpoint, new_values(checkpoint.prefix), tmp_path / name)
    old, new = (SAMPLES / name).read_bytes(), (tmp_path / name).read_bytes()
    assert len(old) == len(new)
    changed = sum(a != b for a, b in zip(old, new, strict=True))
    assert (
        changed <= 2 * 24 * 4 + 8 + 3 * 3 * 4
    )  # two vectors, a counter, checksums in three places
    state = torch.load(tmp_path / name, weights_only=True)
    state = state.get("state_dict", state)
    assert state[checkpoint.prefix + COUNTER] == 4711


@pytest.mark.parametrize("name", ["healthy.pt", "healthy-torchscript.pt", "healthy.pt2"])
def test_checksums_are_right(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLES / name)
    write_copy(checkpoint, new_values(checkpoint.prefix), tmp_path / name)
    with zipfile.ZipFile(tmp_path / name) as archive:
        assert archive.testzip() is None


def test_torchscript_and_exported_programs_still_run(tmp_path: Path) -> None:
    x = torch.zeros(2, 1, 8, 8)
    for name in ("healthy-torchscript.pt", "healthy.pt2"):
        checkpoint = open_checkpoint(SAMPLES / name)
        write_copy(checkpoint, new_values(""), tmp_path / name)
    scripted = torch.jit.load(tmp_path / "healthy-torchscript.pt")  # type: ignore[no-untyped-call]
    program = torch.export.load(tmp_path / "healthy.pt2").module()
    torch.testing.assert_close(scripted(x), program(x))


def test_what_cannot_be_patched_is_refused_and_nothing_written(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLES / "healthy.onnx")
    name = next(n for n in checkpoint.tensors if n.endswith("running_mean"))
    with pytest.raises(BncheckError, match="cannot be changed in place"):
        write_copy(checkpoint, {name: np.zeros(12)}, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_damage_is_noticed_before_the_copy_gets_its_name(tmp_path: Path) -> None:
    """A value that the file's dtype cannot hold bit for bit is written as it rounds."""
    path = tmp_path / "half.pt"
    torch.save({"bn.running_mean": torch.zeros(3).half(), "bn.running_var": torch.ones(3).half()},
               path)  # fmt: skip
    values = {"bn.running_mean": np.array([0.1, 1e-3, 3.0])}
    write_copy(open_checkpoint(path), values, tmp_path / "out.pt")
    written = bncheck.open_checkpoint(tmp_path / "out.pt").tensors["bn.running_mean"]
    assert written.tolist() == np.array([0.1, 1e-3, 3.0], np.float16).tolist()


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(SAMPLES / "healthy-sharded")
    (tmp_path / "out").mkdir()
    with pytest.raises(BncheckError, match="exists already"):
        write_copy(checkpoint, new_values(""), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_index_is_refused_in_favour_of_its_folder(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "healthy-sharded", tmp_path / "in")
    checkpoint = open_checkpoint(tmp_path / "in" / "model.safetensors.index.json")
    with pytest.raises(BncheckError, match="give bncheck the folder"):
        write_copy(checkpoint, new_values(""), tmp_path / "out.json")


@pytest.mark.parametrize("target", [".", "..", "/dev/zero", "private", "absent", "fifo"])
def test_a_folder_with_stray_links_is_not_copied(target: str, tmp_path: Path) -> None:
    """A link to itself would be copied for ever, /dev/zero without end, a private file into what
    is then uploaded.
    """
    (tmp_path / "private").write_text("secret")
    folder = tmp_path / "model"
    shutil.copytree(SAMPLES / "healthy-sharded", folder)
    if target == "fifo":
        os.mkfifo(folder / "extra")
    else:
        (folder / "extra").symlink_to("../private" if target == "private" else target)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(BncheckError, match="'extra'"):
        write_copy(checkpoint, new_values(checkpoint.prefix), tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["model", "private"]


def test_a_folder_of_the_hugging_face_cache_is_copied(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    shutil.copytree(SAMPLES / "healthy-sharded", blobs)
    (folder / "onnx").mkdir(parents=True)
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "onnx" / "config.json").write_text("{}")
    checkpoint = open_checkpoint(folder)
    write_copy(checkpoint, new_values(checkpoint.prefix), tmp_path / "out")
    written = open_checkpoint(tmp_path / "out")
    assert written.tensors[checkpoint.prefix + COUNTER] == 4711
    assert (tmp_path / "out" / "onnx" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["healthy.pt", "healthy-sharded", "healthy-distributed"])
def test_a_copy_is_as_closed_as_the_original(name: str, tmp_path: Path) -> None:
    original, copy = tmp_path / "in", tmp_path / "out"
    if (SAMPLES / name).is_dir():
        shutil.copytree(SAMPLES / name, original)
        (original / "sub").mkdir()
        (original / "sub" / "config.json").touch()
    else:
        shutil.copy(SAMPLES / name, original)
    inside = sorted(path.relative_to(original) for path in original.rglob("*"))
    modes = {
        path: 0o750 if (original / path).is_dir() else (0o600, 0o640, 0o444)[place % 3]
        for place, path in enumerate((Path(), *inside))
    }
    for path, mode in modes.items():
        (original / path).chmod(mode)
    checkpoint = open_checkpoint(original)
    write_copy(checkpoint, new_values(checkpoint.prefix), copy)
    assert {path: (copy / path).stat().st_mode & 0o777 for path in modes} == modes


def _two_of_one_storage(path: Path) -> None:
    """As `ema = {**model.state_dict()}` is saved, when only the weights were averaged."""
    state = torch.load(SAMPLES / "healthy.pt", weights_only=True)["state_dict"]
    averaged = {name: t if "running" in name else t.clone() for name, t in state.items()}
    torch.save({"model": state, "ema": averaged, "copy": {k: v.clone() for k, v in state.items()}},
               path)  # fmt: skip


def test_what_shares_its_bytes_with_the_new_numbers_is_known(tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    _two_of_one_storage(path)
    checkpoint = open_checkpoint(path, "model")
    values = new_values("")
    assert shared_elsewhere(checkpoint, values) == [f"ema.{MEAN}", f"ema.{VAR}"]
    write_copy(checkpoint, values, tmp_path / "out.pt")
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(written["ema"][MEAN], written["model"][MEAN])
    assert not torch.equal(written["copy"][MEAN], written["model"][MEAN])
    assert shared_elsewhere(open_checkpoint(path, "copy"), values) == []


def test_other_names_of_the_same_tensor_change_with_it(tmp_path: Path) -> None:
    path = tmp_path / "alias.pt"
    mean, var = torch.zeros(3), torch.ones(3)
    names = ("a.bn.running_mean", "a.bn.running_var", "b.bn.running_mean", "b.bn.running_var")
    torch.save(dict(zip(names, (mean, var, mean, var), strict=True)), path)
    write_copy(open_checkpoint(path), {names[0]: np.full(3, 7.0)}, tmp_path / "out.pt")
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    assert written[names[0]].tolist() == written[names[2]].tolist() == [7.0] * 3
    assert written[names[1]].tolist() == [1.0] * 3
