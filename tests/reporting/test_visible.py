"""No name from a file reaches the screen as anything but printable characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.reporting.visible import MAX_NAME, visible

#: Every code point, surrogates included, which st.text() leaves out.
ANY_TEXT = st.lists(st.integers(0, 0x10FFFF).map(chr), max_size=300).map("".join)


@given(ANY_TEXT)
def test_what_is_shown_is_printable_and_bounded(name: str) -> None:
    shown = visible(name)
    assert shown.isprintable() or not shown
    assert len(shown) <= MAX_NAME
    shown.encode()  # no lone surrogate


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=MAX_NAME))
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert visible(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\nb\r::error::c", "a\\nb\\r::error::c"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("[link=http://x]y[/]", "[link=http://x]y[/]"),  # markup is off, not escaped
        ("größe.权重", "größe.权重"),
        ("x" * 1_000_000, "x" * (MAX_NAME - 1) + "…"),
    ],
)
def test_examples(name: str, shown: str) -> None:
    assert visible(name) == shown
