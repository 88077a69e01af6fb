"""Where output goes: results to stdout, all else to stderr, a line each."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def result_console(no_color: bool) -> Console:
    """A console on stdout without markup, highlighting or emoji: names are shown as they are.

    Colour only on a terminal; FORCE_COLOR and NO_COLOR are obeyed, --no-color beats both.
    """
    from rich.console import Console

    from bncheck.reporting.layout import PLAIN_WIDTH

    forced = bool(os.environ.get("FORCE_COLOR"))
    plain = no_color or bool(os.environ.get("NO_COLOR"))
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        force_terminal=True if forced and not plain else None,
        color_system=None if plain or not (forced or is_terminal) else "auto",
        no_color=plain,
        width=None if is_terminal or "COLUMNS" in os.environ else PLAIN_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )


def note(message: str) -> None:
    """Something worth knowing beside the result."""
    line(f"note: {message}")


def error(message: str) -> None:
    """Why something could not be done."""
    line(f"error: {message}")


@contextlib.contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line on a terminal's stderr that says what is being done; it disappears at the end."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda what: None
        return
    from rich.console import Console

    with Console(file=sys.stderr, markup=False, highlight=False).status("starting") as shown:
        yield lambda what: shown.update(what)


def line(message: str) -> None:
    """One line on stderr, without anything that steers a terminal or a CI runner."""
    from bncheck.reporting.visible import visible_line

    if sys.stderr is not None:
        print(f"bncheck: {visible_line(message)}", file=sys.stderr)  # noqa: T201
