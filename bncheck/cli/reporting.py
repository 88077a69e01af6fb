"""How a command reports: its options, checked before the work, and the delivery after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from bncheck.cli import console
from bncheck.core.errors import BncheckError
from bncheck.core.extras import need
from bncheck.core.findings import Severity
from bncheck.reporting.formats import PICTURES, REPORTS, Format, Said, render

_SLICE = 1 << 20


def format_option(formats: tuple[Format, ...]) -> Any:
    """--format with what a command has, and nothing else."""
    names = [format_.value for format_ in formats]
    return typer.Option(
        "--format",
        help="Format of the report on stdout.",
        metavar=f"<{'|'.join(names)}>",
        parser=lambda word: _known(word, names),
        autocompletion=lambda: names,
    )


def _known(word: str, names: list[str]) -> Format:
    if word not in names:
        raise typer.BadParameter(f"{word!r} is not one of {', '.join(names)}")
    return Format(word)  # typer 0.29 leaves what a parser returns as it is


JsonOption = Annotated[bool, typer.Option("--json", help="Same as --format json.")]


@dataclass(frozen=True)
class ReportOptions:
    """The options about reports that every command has."""

    formats: ClassVar[tuple[Format, ...]] = REPORTS

    format_: Annotated[Format, format_option(REPORTS)] = Format.TEXT
    json: JsonOption = False
    report: Annotated[
        list[str] | None,
        typer.Option("--report", metavar="FORMAT:FILE", help="Also write a report; repeatable."),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors and warnings only.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every finding, and a table of layers.")
    ] = False
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour, even on a terminal.")] = (
        False
    )

    def delivery(self, output: Path | None = None) -> Delivery:
        """Where the report will go, checked now so that no work is lost.

        `output` is a file for the report in --format, with text on stdout. Raises BncheckError.
        """
        from bncheck.writing.atomic import check_target

        if self.quiet and self.verbose:
            raise BncheckError("--quiet and --verbose exclude each other", "give one of them")
        shown = Format.JSON if self.json else self.format_
        files = [_report_file(word, self.formats) for word in self.report or ()]
        if output is not None:
            files.append((shown, output))
            shown = Format.TEXT
        for _, path in files:
            check_target(path)
        if Format.HTML in (shown, *(format_ for format_, _ in files)):
            need("jinja2", "plotly", purpose="the HTML report")
        return Delivery(shown, tuple(files), self.quiet, self.verbose, self.no_color)


@dataclass(frozen=True)
class PictureOptions(ReportOptions):
    """Those of a command that has something to draw as SVG."""

    formats: ClassVar[tuple[Format, ...]] = PICTURES

    format_: Annotated[Format, format_option(PICTURES)] = Format.TEXT


@dataclass(frozen=True)
class Delivery:
    """Which report goes where."""

    shown: Format
    files: tuple[tuple[Format, Path], ...]
    quiet: bool
    verbose: bool
    no_color: bool

    def deliver(self, said: Said, limit: Severity | None = Severity.ERROR) -> None:
        """Write the files, each whole or not at all, then show the result.

        Findings of `limit` and worse are failures, where a format has a word for that.
        """
        from bncheck.writing.atomic import write_text

        for format_, path in self.files:
            write_text(path, render(format_, said, limit))
        if self.shown is not Format.TEXT:
            rendered = render(self.shown, said, limit)
            for start in range(0, len(rendered), _SLICE):  # encoded at once it would be there twice
                typer.echo(rendered[start : start + _SLICE], nl=False)
            return
        from bncheck.reporting import text

        terminal = console.result_console(self.no_color)
        if self.quiet:
            text.show_findings(terminal, said.pages().documents)
        else:
            text.show(terminal, said.pages(), verbose=self.verbose)


def _report_file(word: str, formats: tuple[Format, ...]) -> tuple[Format, Path]:
    name, colon, path = word.partition(":")
    if not colon or not path:
        raise BncheckError(f"--report {word!r} is not FORMAT:FILE", "write e.g. json:report.json")
    if name in formats:
        return Format(name), Path(path)
    known = ", ".join(item.value for item in formats)
    raise BncheckError(f"--report has no format {name!r}", f"choose from {known}")
