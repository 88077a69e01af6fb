"""A file that is replaced, truncated or overwritten while it is read: a line, never a crash."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.warm import Warm
from tests.zoo.registry import BUILDERS

#: One of every container that is read in several steps.
LAYOUTS = ("zip-bare", "legacy-bare", "safetensors-file", "exported-program", "distributed")


@pytest.mark.parametrize(
    ("name", "command"), [("zip-bare", "drift"), *((name, "inspect") for name in LAYOUTS)]
)
def test_a_file_that_changes(name: str, command: str, tmp_path: Path, warm: Warm) -> None:
    (tmp_path / "in").mkdir()
    path = BUILDERS[name](tmp_path / "in").path
    changing = max((p for p in (path, *path.rglob("*")) if p.is_file()), key=_size)
    words = [command, str(path)]
    if command == "drift":
        words.append(shutil.copy(str(path), str(tmp_path / "other.pt")))
    done = warm.module("tests.faults.changing", [str(changing), *words], tmp_path)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) > 8, done.stderr
    assert {r["code"] for r in results} <= {0, 1, 2, 98}, results
    assert any(r["code"] == 2 for r in results)
    for result in results:
        assert "Traceback" not in result["said"]
        assert "bug in bncheck" not in result["said"], result
        if result["code"] == 2:
            assert result["said"].count("bncheck: error: ") == 1, result


def _size(path: Path) -> int:
    return path.stat().st_size
