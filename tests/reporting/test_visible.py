"""No name from a file reaches the screen as anything but printable characters."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bncheck.reporting.visible import MAX_NAME, visible, visible_line

#: Every code point, surrogates included, which st.text() leaves out.
ANY_TEXT = st.lists(st.integers(0, 0x10FFFF).map(chr), max_size=300).map("".join)


@given(ANY_TEXT)
def test_what_is_shown_is_printable_and_bounded(name: str) -> None:
    shown = visible(name)
    assert shown.isprintable() or not shown
    assert len(shown) <= MAX_NAME
    shown.encode()  # no lone surrogate
    assert "##" not in shown
    assert "::" not in shown


#: What CI runners look for, in names that try to get past the guard.
_RUNNER = st.text(st.sampled_from("#:[]a \n"), max_size=30)


@given(_RUNNER)
def test_no_command_for_a_ci_runner(name: str) -> None:
    assert "##[" not in visible(name)
    assert not visible(name).startswith("::")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=MAX_NAME))
def test_plain_names_stay_as_they_are(name: str) -> None:
    assume("::" not in name and "##" not in name)
    assert visible(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\nb\r::error::c", "a\\nb\\r\\x3a:error\\x3a:c"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("[link=http://x]y[/]", "[link=http://x]y[/]"),  # markup is off, not escaped
        ("größe.权重", "größe.权重"),
        ("x ##[add-mask]y ##vso[task.x]z", "x \\x23#[add-mask]y \\x23#vso[task.x]z"),
        (":::a###", "\\x3a\\x3a:a\\x23\\x23#"),
        ("a\u0336\u3164\u00a0b", "a\\u0336\\u3164\\xa0b"),
        ("x" * 1_000_000, "x" * (MAX_NAME - 1) + "…"),
    ],
)
def test_examples(name: str, shown: str) -> None:
    assert visible(name) == shown


def test_of_a_long_line_the_beginning_and_the_end_are_shown() -> None:
    shown = visible_line("is not a file:\x1b" + "m" * 1_000_000 + "; check ::it")
    assert shown.startswith("is not a file:\\x1bmmm")
    assert shown.endswith("mmm; check \\x3a:it")
    assert "m…m" in shown
    assert len(shown) < 5100
    assert visible_line("short") == "short"
