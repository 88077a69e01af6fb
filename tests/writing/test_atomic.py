"""A report is the old file or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bncheck.core.errors import BncheckError
from bncheck.writing.atomic import write_text


def test_a_new_file_and_a_replaced_one(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    write_text(path, "one\n")
    path.chmod(0o640)
    write_text(path, "zwei ü \ud800\n")
    assert path.read_bytes() == "zwei ü \\ud800\n".encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["report.txt"]


@pytest.mark.parametrize("target", [".", "missing/report.txt"])
def test_an_impossible_target_is_one_sentence(tmp_path: Path, target: str) -> None:
    with pytest.raises(BncheckError, match="folder"):
        write_text(tmp_path / target, "x")
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.txt"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BncheckError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.txt"]


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BncheckError, match="no regular file"):
        write_text(tmp_path / "pipe", "x")
    with pytest.raises(BncheckError, match="no regular file"):
        write_text(Path("/dev/null"), "x")


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    """A stranger's folder may hold `report.json -> ~/.bashrc`."""
    (tmp_path / "private").write_text("mine")
    (tmp_path / "report.txt").symlink_to("private")
    write_text(tmp_path / "report.txt", "new")
    assert (tmp_path / "private").read_text() == "mine"
    assert (tmp_path / "report.txt").read_text() == "new"
