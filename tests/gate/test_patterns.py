"""Patterns of [tool.bncheck.models]: glob's answers, within bounds."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_PATTERN_ENTRIES
from bncheck.core.matching import is_pattern
from bncheck.reading.patterns import matching, meant

FILES = ("a.pt", "b/a.pt", "b/c/a.pt", "b/c/d.pt", ".h/a.pt", "b/.h.pt", "[x]/a.pt", "b/c/e/f/a.th")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for file in FILES:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    (folder / "link").symlink_to("b")
    (folder / "dangling.pt").symlink_to("nowhere")
    return folder


PARTS = ("**", "*", "*.pt", "a*", "?", "[bx]", "[[]x]", "b", "c", "link", ".*", ".h", "a.pt")


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
def test_it_finds_what_glob_finds(tree: Path, parts: list[str]) -> None:
    for root in (str(tree), os.path.relpath(tree)):
        pattern = os.path.join(root, *parts)
        if is_pattern(pattern):
            # glob also gives what lies before a `**` at the end, with a stroke and even as a file.
            named = (p for p in glob.glob(pattern, recursive=True) if not p.endswith(os.sep))
            found = {os.path.normpath(path) for path in named}
            assert {os.path.normpath(path) for path in matching(pattern)} == found


def test_a_file_called_like_the_pattern_hides_nothing(tmp_path: Path) -> None:
    for name in ("a.pt", "*.pt", "[a].pt"):
        (tmp_path / name).touch()
    assert meant(f"{tmp_path}/*.pt") == [f"{tmp_path}/{n}" for n in ("*.pt", "[a].pt", "a.pt")]
    assert meant(f"{tmp_path}/[a].pt") == [f"{tmp_path}/a.pt", f"{tmp_path}/[a].pt"]
    assert meant(f"{tmp_path}/a.pt") == [f"{tmp_path}/a.pt"]
    assert meant(f"{tmp_path}/b*") == meant(f"{tmp_path}/b") == []


def test_links_in_a_circle_and_folders_without_end_are_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).symlink_to(".")
    limit = "bncheck.reading.patterns.MAX_PATTERN_ENTRIES"
    monkeypatch.setattr(limit, MAX_PATTERN_ENTRIES // 20)  # the circle has 3 to the 40 entries
    with pytest.raises(BncheckError, match=r"more than 12,500 .*MAX_PATTERN_ENTRIES"):
        matching(f"{tmp_path}/**/*.pt")
    monkeypatch.setattr(limit, 2)
    with pytest.raises(BncheckError, match="more than 2 files and folders"):
        matching(f"{tmp_path}/*")
