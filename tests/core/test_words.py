"""Words for names."""

from __future__ import annotations

import pytest

from bncheck.core.words import nearest, percent


def test_a_mistyped_name_has_a_nearest_one_unless_it_is_longer_than_names_are() -> None:
    assert nearest("helthy", ["broken", "healthy"]) == "healthy"
    assert nearest("x", ["broken", "healthy"]) is None
    long = "a" * 200
    assert nearest(long, [f"{long}b"]) == f"{long}b"
    assert nearest(f"{long}a", [f"{long}b"]) is None  # a megabyte would take a tenth of a second


@pytest.mark.parametrize(
    ("share", "digits", "said"),
    [
        (0.618, 1, "61.8%"),
        (1, 1, "100.0%"),
        (0, 1, "0.0%"),
        (1.5, 0, "150%"),
        (1 - 1e-4, 1, "more than 99.9%"),
        (1e-4, 1, "less than 0.1%"),
        (0.999, 0, "more than 99%"),
        (0.004, 0, "less than 1%"),
        (0.9994, 1, "99.9%"),
    ],
)
def test_a_share_is_all_or_none_only_where_it_is(share: float, digits: int, said: str) -> None:
    assert percent(share, digits) == said
