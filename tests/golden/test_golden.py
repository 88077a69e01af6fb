"""The text of every command is what it was; `python -m tests.golden` writes it anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.cases import CASES, FOLDER, prepare, printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden")
    prepare(path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_text_reads_as_before(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert printed(CASES[name]) == (FOLDER / f"{name}.txt").read_text("utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(CASES)
