"""`bncheck watch`."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.options import OutputOption, finite
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.reporting import Delivery, PictureOptions
from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    from bncheck.cli.policy import Tally
    from bncheck.recording.watching import Watch, WatchReport
    from bncheck.reporting.formats import Said


#: A page that nobody writes any more (a watch that was killed) is looked at for so long.
_STALE: Final = 3600.0

TOLD: Final = Told(
    (
        "bncheck watch runs/a",
        "bncheck watch runs/a --once -o watch.html",
    ),
)


@expanded
def watch(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="The folder that a Recorder writes.")
    ],
    *,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="Another model of the record: ema.")
    ] = None,
    interval: Annotated[
        float,
        typer.Option(
            "--interval", min=0.1, metavar="S", callback=finite, help="Seconds between two looks."
        ),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print once, also on a terminal.")] = False,
    output: OutputOption = None,
    policy_options: PolicyOptions,
    reporting: PictureOptions,
) -> int:
    """Watch a training that bncheck.recording records.

    On a terminal the report is rewritten in place, and the files of -o and --report with it, until
    Ctrl-C (exit code 130). Off a terminal it is printed once.
    """
    from bncheck.recording.watching import Watch

    delivery = reporting.delivery(output)
    tally = policy_options.tally()
    check_files([record], (), tally, delivery)
    policy = tally.policy
    watched = Watch(record, key or "", policy.select, policy.ignore)
    live = not once and sys.stdout is not None and sys.stdout.isatty()
    if live and delivery.is_text and record.is_dir():  # the training may begin later, but there
        _follow(watched, tally, delivery, interval)
    report = tally.count(watched.look())
    for line in report.notes:
        console.note(line)
    delivery.deliver(_said(report), tally)
    return tally.finish(report.findings)


def _said(report: WatchReport, interval: float | None = None) -> Said:
    """What a report says; with an interval a page that is looked at again and again."""
    from bncheck.reporting.document import Pages, Refresh
    from bncheck.reporting.documents.watch import document
    from bncheck.reporting.formats import Said

    def pages() -> Pages:
        refresh = None
        if interval is not None:
            refresh = Refresh(max(1, math.ceil(interval)), int(time.time() + _STALE))
        return Pages((document(report),), refresh=refresh)

    return Said(report.to_dict, pages)


def _follow(watched: Watch, tally: Tally, delivery: Delivery, interval: float) -> None:
    """Show it again and again, until an interrupt ends it."""
    from rich.live import Live
    from rich.text import Text

    terminal = console.result_console(delivery.no_color)
    report: WatchReport | None = None
    seen, written, shown = None, 0.0, Text("waiting for the first snapshot")
    try:
        with Live(shown, console=terminal, auto_refresh=False, vertical_overflow="crop") as screen:
            while True:
                now = watched.changed(), terminal.width
                if now != seen or time.monotonic() - written > _STALE / 2:
                    try:
                        report = tally.count(watched.look())
                        shown = Text.from_ansi(_drawn(report, terminal.width, delivery))
                        delivery.write(_said(report, interval), tally)
                    except BncheckError as error:  # it is being written, or not there yet
                        shown = Text(str(error))
                    seen, written = now, time.monotonic()
                screen.update(shown, refresh=True)
                time.sleep(interval)
    finally:  # nothing keeps the page fresh from here on
        if report is not None:
            with contextlib.suppress(BncheckError):
                delivery.write(_said(report), tally)


def _drawn(report: WatchReport, width: int, delivery: Delivery) -> str:
    """The report as the terminal would show it."""
    from rich.console import Console

    from bncheck.reporting import text

    page = io.StringIO()
    own = console.result_console(delivery.no_color)
    drawing = Console(
        file=page, width=width, force_terminal=own.is_terminal, markup=False, highlight=False,
        emoji=False, no_color=own.no_color,
        color_system=own.color_system,  # type: ignore[arg-type]
    )  # fmt: skip
    text.show(drawing, _said(report).pages(), verbose=delivery.verbose)
    return page.getvalue()
