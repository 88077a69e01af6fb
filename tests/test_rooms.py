"""Rooms import only rooms below them, and reading a file needs no torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rooms import DOOR, PACKAGE, ROOMS, Import, cycle, imports, strayed_torch, upward


@pytest.fixture(scope="module")
def ours() -> list[Import]:
    return list(imports())


def test_no_import_leads_up_or_round_in_a_circle(ours: list[Import]) -> None:
    assert not upward(ours)
    assert not cycle()


def test_torch_is_imported_only_where_a_model_runs(ours: list[Import]) -> None:
    assert not strayed_torch(ours)


def test_every_module_is_in_a_room() -> None:
    top = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert top == set(DOOR)
    assert folders == set(ROOMS)


def test_forbidden_imports_are_found(tmp_path: Path) -> None:
    """An import under TYPE_CHECKING, one inside a function, and torch in a reader."""
    for room in ("core", "reading", "cli"):
        (tmp_path / room).mkdir()
    (tmp_path / "core" / "a.py").write_text(
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from bncheck.cli.b import B\n"
    )
    (tmp_path / "reading" / "c.py").write_text(
        "def read():\n    import torch\n    from bncheck.reporting import html\n"
    )
    (tmp_path / "cli" / "b.py").write_text("from bncheck.core.a import A\nimport bncheck\n")
    found = list(imports(tmp_path))
    assert set(upward(found)) == {("core", "cli"), ("reading", "reporting"), ("cli", "__init__")}
    assert [i.file for i in strayed_torch(found)] == ["reading/c.py"]
