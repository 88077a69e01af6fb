"""The identities of docs/folding.md: modules name its sections, and each has its module."""

from __future__ import annotations

import re
from pathlib import Path

import bncheck.folding

_PAGE = Path(__file__).parents[2] / "docs" / "folding.md"
_REFERENCE = re.compile(r'docs/folding\.md, ((?:"[^"]+"(?:, | and )?)+)')


def test_modules_and_sections_belong_together() -> None:
    sections = set(re.findall(r"^## (.+)$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    folder = Path(bncheck.folding.__path__[0])
    texts = [" ".join(path.read_text(encoding="utf-8").split()) for path in folder.rglob("*.py")]
    named = {
        name
        for text in texts
        for reference in _REFERENCE.findall(text)
        for name in re.findall('"([^"]+)"', reference)
    }
    assert named == sections
