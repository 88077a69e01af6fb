"""What killed runs leave is removed by the next; nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bncheck.writing import leftovers
from bncheck.writing.atomic import creating_folder, write_text
from tests.planted import ROOT

#: Begins to write a file or a folder, says so, and waits.
WRITER = """
import sys, time
from pathlib import Path
from bncheck.writing.atomic import creating_folder, replacing
how = creating_folder if sys.argv[2] == "folder" else replacing
with how(Path(sys.argv[1])) as temporary:
    if sys.argv[2] == "folder":
        (temporary / "inside").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


def _begun(target: Path, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target), kind],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_run_left_goes_and_what_a_living_one_writes_stays(
    kind: str, tmp_path: Path
) -> None:
    process = _begun(tmp_path / "out.pt", kind)
    try:
        (left,) = tmp_path.iterdir()
        os.kill(process.pid, signal.SIGSTOP)  # alive, though it does nothing
        write_text(tmp_path / "report.json", "{}")
        assert left.exists()
        os.kill(process.pid, signal.SIGKILL)
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        write_text(tmp_path / "report.json", "{}")  # its parent has not looked at it yet
    finally:
        process.kill()
        process.wait()
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_number_that_another_process_has_now_is_not_an_excuse(tmp_path: Path) -> None:
    ours = leftovers.prefix("model")
    start = ours.rstrip(".").rpartition("-")[2]
    reused = tmp_path / f"{ours.replace(f'-{start}.', f'-{int(start) - 1}.')}abcdefgh.pt"
    reused.touch()
    with creating_folder(tmp_path / "new"):
        pass
    assert os.listdir(tmp_path) == ["new"]


def test_nothing_of_a_stranger_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    ours = leftovers.prefix("model").replace(f"-{os.getpid()}-", f"-{process.pid}-")
    host = ours.split("-")[1]
    names = [
        f"{ours}abcdefgh.pt",  # a link, below
        ours.replace(host, "0" * 8) + "abcdefgh.pt",  # of another host or container
        leftovers.prefix("model") + "abcdefgh.pt",  # of this living process
        ours[1:] + "abcdefgh.pt", ours + "short.pt", ".model.abcdefgh.pt", ".model.bncheck-x.pt",
        ".bncheck-cache", "model.pt", ".env",
    ]  # fmt: skip
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / f"{ours}ijklmnop").mkdir()
    (tmp_path / f"{ours}ijklmnop").chmod(0o755)
    (tmp_path / names[0]).symlink_to("kept")
    for name in names[1:]:
        (tmp_path / name).touch()
    write_text(tmp_path / "report.json", "{}")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [*names, f"{ours}ijklmnop", "kept", "report.json"]
    )
    assert os.listdir(tmp_path / "kept") == ["file"]
    another = tmp_path / f"{ours}hgfedcba.pt"
    another.touch()
    uid = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: uid + 1)  # as if it were another user's
        leftovers.sweep(tmp_path)
    assert another.exists()
    leftovers.sweep(tmp_path)
    assert not another.exists()


def test_a_folder_that_cannot_be_listed_does_not_matter(tmp_path: Path) -> None:
    leftovers.sweep(tmp_path / "absent")


def test_long_and_odd_names(tmp_path: Path) -> None:
    for name in ("x" * 200 + ".pt", "a\nb.pt", "\U0001f600" * 50 + ".json", ".hidden", "no-ending"):
        write_text(tmp_path / name, "1")
        assert (tmp_path / name).read_text() == "1"
    assert len(os.listdir(tmp_path)) == 5
