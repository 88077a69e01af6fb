"""A report is the old file or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bncheck.core.errors import BncheckError
from bncheck.writing.atomic import creating_folder, replacing, write_text


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
    with pytest.raises(BncheckError, match="not a regular file"):
        write_text(tmp_path / "pipe", "x")
    with pytest.raises(BncheckError, match="not a regular file"):
        write_text(Path("/dev/null"), "x")


@pytest.mark.parametrize("leads", ["private", "nowhere", "report.txt", "/dev/stdout"])
def test_a_link_is_refused_and_what_it_leads_to_stays(leads: str, tmp_path: Path) -> None:
    """A stranger's folder may hold `report.json -> ~/.bashrc`."""
    (tmp_path / "private").write_text("mine")
    link = tmp_path / "report.txt"
    link.symlink_to(leads)
    with pytest.raises(BncheckError, match="is a symbolic link"):
        write_text(link, "new")
    with (
        pytest.raises(BncheckError, match=r"is a symbolic link|exists already"),
        creating_folder(link),
    ):
        pass
    assert (tmp_path / "private").read_text() == "mine"
    assert os.readlink(link) == leads
    assert sorted(os.listdir(tmp_path)) == ["private", "report.txt"]


def test_a_folder_that_is_a_link_may_hold_the_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link" / "report.txt", "new")
    assert (tmp_path / "real" / "report.txt").read_text() == "new"


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("before", [None, 0o644, 0o600])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o444, 0o400, 0o666])
def test_a_copy_is_never_more_open_than_its_original(
    mode: int, before: int | None, tmp_path: Path
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.touch()
    original.chmod(mode)
    if before is not None:
        copy.touch()
        copy.chmod(before)
    with replacing(copy, original) as temporary:
        assert _mode(temporary) == 0o600
        temporary.write_text("copied")
    assert _mode(copy) & ~mode == 0
    assert _mode(copy) == mode & (0o644 if before is None else before)


def test_a_copy_of_another_group_s_file_is_closed_to_its_own_group(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.touch()
    others = [g for g in (*os.getgroups(), 12345) if g != original.stat().st_gid]
    if os.geteuid() and len(others) == 1:
        pytest.skip("this user is in one group")
    os.chown(original, -1, others[0])
    for mode, wanted in ((0o640, 0o600), (0o644, 0o644), (0o660, 0o600)):
        original.chmod(mode)
        with replacing(tmp_path / "copy", original):
            pass
        assert _mode(tmp_path / "copy") == wanted
        (tmp_path / "copy").unlink()


def test_one_file_made_of_many_is_as_closed_as_the_most_closed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, mode in (("a", 0o644), ("b", 0o604)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    for mode, wanted in ((0o755, 0o604), (0o700, 0o600)):
        folder.chmod(mode)
        with replacing(tmp_path / "out", folder):
            pass
        assert _mode(tmp_path / "out") == wanted
        (tmp_path / "out").unlink()


def test_the_data_of_an_onnx_model_count(tmp_path: Path) -> None:
    from tests.zoo.onnx_models import onnx_external_data

    model = onnx_external_data(tmp_path).path
    (data,) = (path for path in tmp_path.iterdir() if path != model)
    data.chmod(0o600)
    with replacing(tmp_path / "out.onnx", model):
        pass
    assert _mode(tmp_path / "out.onnx") == 0o600
