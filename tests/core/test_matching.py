"""Words that name layers: as they stand, or as patterns that end."""

from __future__ import annotations

import pytest

from bncheck.core import matching
from bncheck.core.errors import BncheckError
from bncheck.core.matching import matches


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("layer1.bn", "layer1.*", True),
        ("layer1.bn", "layer1.b?", True),
        ("layer1.bn", "layer[12].bn", True),
        ("layer1.bn", "layer1.bn", True),
        ("layer1.bn", "Layer1.*", False),
        ("layer1.bn", "layer1", False),
        ("", "", True),
    ],
)
def test_a_name_fits(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, pattern) is fits


def test_a_long_word_is_compared_and_a_long_pattern_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An expression is made of neither: one of 500,000 open brackets takes hours."""
    monkeypatch.delattr(matching, "fnmatchcase")
    word = "a" * 1_000_000
    assert matches(word, word)
    assert not matches("bn1", word)
    for pattern in ("*a" * 500_000, "[a" * 500_000):
        with pytest.raises(BncheckError, match="MAX_PATTERN_LETTERS") as refused:
            matches("bn1", pattern)
        assert len(refused.value.message) < 300
