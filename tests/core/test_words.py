"""Words for names."""

from __future__ import annotations

from bncheck.core.words import nearest


def test_a_mistyped_name_has_a_nearest_one_unless_it_is_longer_than_names_are() -> None:
    assert nearest("helthy", ["broken", "healthy"]) == "healthy"
    assert nearest("x", ["broken", "healthy"]) is None
    long = "a" * 200
    assert nearest(long, [f"{long}b"]) == f"{long}b"
    assert nearest(f"{long}a", [f"{long}b"]) is None  # a megabyte would take a tenth of a second
