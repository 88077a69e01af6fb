"""What is a checkpoint in a folder, and what is left out and counted."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.reading.folders import checkpoints_in, unread_in
from tests.planted import SAMPLES


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs as people have them."""
    folder = tmp_path / "runs"
    for place in ("a/last.pt", "a/deep/best.CKPT", "b/weights", "b/.hidden.pt", ".cache/x.pt"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES / "healthy.pt", folder / place)
    shutil.copy(SAMPLES / "healthy.safetensors", folder / "a" / "net")
    shutil.copytree(SAMPLES / "healthy-sharded", folder / "hub")
    shutil.copytree(SAMPLES / "healthy-distributed", folder / "ranks")
    for name in ("notes.txt", "train.py", "data.npz", "README"):
        (folder / name).write_text("PK\x03\x04 text")
    return folder


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in checkpoints_in(folder).checkpoints]


def test_known_endings_and_known_beginnings_are_found(runs: Path) -> None:
    assert _names(runs) == [
        "a/deep/best.CKPT", "a/last.pt", "a/net", "b/weights", "hub", "ranks",
    ]  # fmt: skip
    found = checkpoints_in(runs)
    assert (found.hidden, len(found.ignored), found.others.total()) == (2, 0, 4)
    assert found.left_out().startswith("2 hidden entries, 4 other files (")


def test_a_folder_that_is_a_checkpoint_is_one(runs: Path) -> None:
    assert _names(runs / "hub") == ["."]


def test_an_index_of_another_name_stands_for_its_shards(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "healthy-sharded", tmp_path / "x")
    index = tmp_path / "x" / "model.safetensors.index.json"
    index.rename(tmp_path / "x" / "other.safetensors.index.json")
    assert _names(tmp_path / "x") == ["other.safetensors.index.json"]


def test_gitignore_counts_in_a_repository_as_git_has_it(runs: Path, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.CKPT\n/runs/b/\n")
    (runs / "a" / ".gitignore").write_text("net\n!best.CKPT\n")
    without = _names(runs)
    assert "a/deep/best.CKPT" in without  # no repository
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert _names(runs) == ["a/deep/best.CKPT", "a/last.pt", "hub", "ranks"]
    ignored = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        input="\n".join(str(runs / name) for name in without),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert _names(runs) == [name for name in without if str(runs / name) not in ignored]


def test_an_ignored_folder_that_is_named_is_read(runs: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("runs/\n")
    assert "a/last.pt" in _names(runs)
    with pytest.raises(BncheckError, match=r"holds no checkpoint \(1 entry in .gitignore"):
        checkpoints_in(tmp_path)


def test_only_ignored_checkpoints_is_an_error_that_names_one(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("*.pt\n")
    shutil.copy(SAMPLES / "healthy.pt", tmp_path / "net.pt")
    with pytest.raises(BncheckError) as caught:
        checkpoints_in(tmp_path)
    assert f"name what is meant, such as {tmp_path}/net.pt" in str(caught.value)


def test_links_to_folders_are_not_followed_and_the_walk_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    shutil.copy(SAMPLES / "healthy.pt", tmp_path / "net.pt")
    assert _names(tmp_path) == ["net.pt"]
    monkeypatch.setattr("bncheck.reading.folders.MAX_PATTERN_ENTRIES", 1)
    with pytest.raises(BncheckError, match="MAX_PATTERN_ENTRIES"):
        checkpoints_in(tmp_path)


def test_the_command_says_what_it_left_out(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    assert run(["inspect", "runs", "runs/a/last.pt", "--quiet"]) == 0
    assert "note: runs: 6 checkpoints; left out: 2 hidden entries, 4 other files" in (
        capsys.readouterr().err
    )
    assert run(["inspect", "runs/*/*.pt", "--quiet"]) == 0
    assert run(["inspect", "runs/*/*.nix"]) == 2
    assert "runs/*/*.nix: matches no file; check the pattern" in capsys.readouterr().err
    (runs.parent / "empty").mkdir()
    assert run(["inspect", "empty"]) == 2
    assert "empty: holds no checkpoint; check the path" in capsys.readouterr().err


def test_a_folder_of_snapshots_drifts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drift", str(SAMPLES / "snapshots")]) == 0
    assert "6 snapshots, epoch 1 to epoch 20" in capsys.readouterr().out


@pytest.mark.parametrize("pattern", ["*a" * 30 + "b", "**/a/" * 30 + "b"])
def test_no_pattern_chooses_how_long_it_takes(pattern: str, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text(pattern)
    folder = tmp_path / ("a" * 200) / "/".join("a" * 60)
    folder.mkdir(parents=True)
    shutil.copy(SAMPLES / "healthy.pt", folder)
    assert len(_names(tmp_path)) == 1


def test_too_many_rules_for_the_files_are_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("x*y\n" * 50)
    shutil.copy(SAMPLES / "healthy.pt", tmp_path)
    assert _names(tmp_path) == ["healthy.pt"]
    monkeypatch.setattr("bncheck.reading.ignoring.MAX_IGNORE_WORK", 5000)
    with pytest.raises(BncheckError, match="MAX_IGNORE_WORK"):
        checkpoints_in(tmp_path)


def test_rules_are_read_of_a_regular_file_alone(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    shutil.copy(SAMPLES / "healthy.pt", tmp_path)
    os.mkfifo(tmp_path / ".gitignore")
    assert _names(tmp_path) == ["healthy.pt"]
    (tmp_path / ".gitignore").unlink()
    (tmp_path / ".gitignore").symlink_to("/dev/zero")
    assert _names(tmp_path) == ["healthy.pt"]


def test_links_in_a_circle_and_folders_deeper_than_calls_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pt").symlink_to("b.pt")
    (tmp_path / "b.pt").symlink_to("a.pt")
    shutil.copy(SAMPLES / "healthy.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        os.mkdir("d")
        os.chdir("d")
    try:
        assert _names(tmp_path) == ["healthy.pt"]
    finally:  # deeper than shutil.rmtree goes
        for _ in range(1100):
            os.chdir("..")
            os.rmdir("d")


@pytest.mark.parametrize(
    "pattern",
    [
        "*.a", "/a", "a/", "a/b", "**/b", "a/**", "a/**/b", "!a", "\\!a", "\\#a", "[a-c]b", "[!a]b",
        "[^a]b", "?b", "a\\*", "***/b", "a ", "a\\ ", "*", "a*b", "b/*", "**",
    ],
)  # fmt: skip
def test_patterns_mean_what_git_makes_of_them(pattern: str, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(f"*.x\n{pattern}\n")
    names = ("a", "b", "ab", "aab", "c.a", "!a", "#a", "a*", "a ", "a.x")
    paths = [f"{folder}{name}" for folder in ("", "d/", "g/b/", "e/a/", "f/a/c/") for name in names]
    for path in paths:
        place = tmp_path / path
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SAMPLES / "healthy.pt", place)
    there = sorted(set(paths))
    ignored = subprocess.run(
        ["git", "check-ignore", "-z", "--no-index", "--stdin"], input="\0".join(there),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    ).stdout.split("\0")  # fmt: skip
    left = sorted(set(there) - set(ignored))
    if left:
        assert sorted(_names(tmp_path)) == left
    else:
        with pytest.raises(BncheckError, match=r"in \.gitignore"):
            checkpoints_in(tmp_path)


def test_weights_beside_those_that_a_loader_takes_are_named(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sound model.safetensors must not speak for a broken pytorch_model.bin, or an adapter."""
    hub = runs / "hub"
    assert unread_in(hub) == []
    (hub / "unet").mkdir()
    for name in ("adapter.bin", "unet/best.pt"):
        shutil.copy(SAMPLES / "nan.pt", hub / name)
    for name in ("optimizer.pt", "rng_state_0.pth", "training_args.bin"):
        shutil.copy(SAMPLES / "healthy.pt", hub / name)
    assert [path.name for path in unread_in(hub)] == ["adapter.bin", "best.pt"]
    assert run(["inspect", str(hub)]) == 0
    said = f"{hub}: not read: adapter.bin, unet/best.pt; name one to inspect it"
    assert said in capsys.readouterr().err
