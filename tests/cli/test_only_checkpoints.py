"""`inspect --only-checkpoints`: a commit is not stopped by what was never a checkpoint."""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bncheck.cli import run
from tests import small


def _zip(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"text")
    return file.getvalue()


def _saved(value: object, **more: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **more)
    return file.getvalue()


OTHERS = {
    "text.pt": "Olá, mundo\n".encode(),
    "words.pt": b"content that begins as an old pickle may\n",
    "path.pth": b"import site\n",
    "firmware.bin": np.random.default_rng(0).bytes(4096),
    "program.bin": b"\x7fELF" + bytes(60),
    "image.bin": b"\x89PNG\r\n\x1a\n" + bytes(60),
    "tree.ckpt": b'{"a": 1}',
    "archive.bin": _zip("readme.txt"),
    "training_args.bin": _saved(argparse.Namespace(lr=0.1)),
    "scaler.pt": _saved({"scale": 65536.0}, _use_new_zipfile_serialization=False),
    "model.gguf.bin": b"GGUF" + bytes(60),
}
WHOLE = _saved({"weight": torch.zeros(3)})
DAMAGED = {
    "truncated.pt": WHOLE[: len(WHOLE) // 2],
    "empty.pt": b"",
    "zeros.bin": bytes(4096),
    "pointer.bin": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "page.pt": b"<!DOCTYPE html><html></html>",
    "text.safetensors": b"Hello, world, this is text\n",
    "text.onnx": b"Hello, world, this is text\n",
    "inside.bin": _zip("model.pt"),
}


def _written(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.mark.parametrize("name", OTHERS)
def test_another_file_is_left_out_and_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path, name, OTHERS[name])
    assert run(["inspect", "--quiet", path]) == 2
    capsys.readouterr()
    assert run(["inspect", "--quiet", "--only-checkpoints", path]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"bncheck: note: left out 1 file without a checkpoint: {path}\n"


@pytest.mark.parametrize("name", DAMAGED)
def test_a_checkpoint_that_is_damaged_still_fails(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path, name, DAMAGED[name])
    assert run(["inspect", "--quiet", "--only-checkpoints", path]) == 2
    assert capsys.readouterr().err.startswith(f"bncheck: error: {path}: ")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_checkpoints_among_them_are_judged(
    jobs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.broken(tmp_path / "bad.safetensors", "stem.bn")
    names = [_written(tmp_path, name, content) for name, content in OTHERS.items()]
    options = ["--quiet", "--only-checkpoints", "--jobs", jobs]
    assert run(["inspect", *options, *names, str(tmp_path / "bad.safetensors")]) == 1
    out, err = capsys.readouterr()
    assert "stem.bn" in out
    assert err.count("\n") == 1
    assert f"left out {len(OTHERS)} files without a checkpoint" in err
    assert err.endswith(f" and {len(OTHERS) - 3} more\n")
