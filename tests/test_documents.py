"""Paths in the documents exist, and all documents name the same issue tracker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bncheck.core.errors import ISSUES

ROOT = Path(__file__).parents[1]
PATH = re.compile(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`")


PAGES = ["docs/architecture.md", "docs/folding.md", "CONTRIBUTING.md", "SECURITY.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    named = PATH.findall((ROOT / page).read_text())
    assert named
    gone = [p for p in named if not any((base / p).exists() for base in (ROOT, ROOT / "bncheck"))]
    assert not gone


@pytest.mark.parametrize("page", ["pyproject.toml", "SECURITY.md", "CONTRIBUTING.md"])
def test_bugs_are_reported_in_one_place(page: str) -> None:
    assert ISSUES in (ROOT / page).read_text()
