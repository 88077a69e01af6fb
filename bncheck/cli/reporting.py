"""How a command reports: its options, checked before the work, and the delivery after it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bncheck.cli import console
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity
from bncheck.reporting.formats import Format, View, render

FormatOption = Annotated[Format, typer.Option("--format", help="How stdout reports.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]


@dataclass(frozen=True)
class ReportOptions:
    """The options about reports that every command has."""

    format_: FormatOption = Format.TEXT
    json: JsonOption = False
    report: Annotated[
        list[str] | None,
        typer.Option("--report", metavar="FORMAT:FILE", help="Also write a report; repeatable."),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors and warnings only.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="All there is to say, with a table of layers.")
    ] = False
    no_color: Annotated[bool, typer.Option("--no-color", help="Plain text on a terminal, too.")] = (
        False
    )

    def delivery(
        self,
        output: Path | None = None,
        *,
        spare: Iterable[Path | None] = (),
        has_picture: bool = False,
    ) -> Delivery:
        """Where the report will go, checked now so that no work is lost.

        `output` is a file for the report in --format, with text on stdout; `spare` are files that
        no report may overwrite; `has_picture` is for commands with something to draw as SVG. Raises
        BncheckError.
        """
        from bncheck.writing.atomic import check_target

        if self.quiet and self.verbose:
            raise BncheckError("--quiet and --verbose exclude each other", "give one of them")
        shown = Format.JSON if self.json else self.format_
        files = [_report_file(word) for word in self.report or ()]
        if output is not None:
            files.append((shown, output))
            shown = Format.TEXT
        if not has_picture and Format.SVG in (shown, *(format_ for format_, _ in files)):
            raise BncheckError("only drift has a picture to give as svg", "take --format html")
        taken = {os.path.realpath(other) for other in spare if other is not None}
        for _, path in files:
            if os.path.realpath(path) in taken:
                raise BncheckError("is no place for a report", "name another file", str(path))
            check_target(path)
        return Delivery(shown, tuple(files), self.quiet, self.verbose, self.no_color)


@dataclass(frozen=True)
class Delivery:
    """Which report goes where."""

    shown: Format
    files: tuple[tuple[Format, Path], ...]
    quiet: bool
    verbose: bool
    no_color: bool

    def deliver(self, view: View, limit: Severity | None = Severity.ERROR) -> None:
        """Write the files, each whole or not at all, then show the result.

        Findings of `limit` and worse are failures, where a format has a word for that.
        """
        from bncheck.writing.atomic import write_text

        for format_, path in self.files:
            write_text(path, render(format_, view, limit))
        if self.shown is not Format.TEXT:
            typer.echo(render(self.shown, view, limit), nl=False)
        elif self.quiet:
            from bncheck.reporting.brief import show_findings

            show_findings(console.result_console(self.no_color), view.documents())
        else:
            view.show(console.result_console(self.no_color), verbose=self.verbose)


def _report_file(word: str) -> tuple[Format, Path]:
    name, colon, path = word.partition(":")
    if not colon or not path:
        raise BncheckError(f"--report {word!r} is not FORMAT:FILE", "write e.g. json:report.json")
    try:
        return Format(name), Path(path)
    except ValueError:
        known = ", ".join(item.value for item in Format)
        raise BncheckError(f"--report has no format {name!r}", f"there is {known}") from None
