"""How a command reports: its options, checked before the work, and the delivery after it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from bncheck.cli import console
from bncheck.cli.help import Heading
from bncheck.core.errors import BncheckError
from bncheck.core.extras import need
from bncheck.reporting.formats import PICTURES, REPORTS, Format, Said, format_of, render

if TYPE_CHECKING:
    from bncheck.cli.policy import Tally

_SLICE = 1 << 20
_option = partial(typer.Option, rich_help_panel=Heading.REPORTS)


def format_option(formats: tuple[Format, ...]) -> Any:
    """--format with what a command has, and nothing else."""
    names = [format_.value for format_ in formats]
    return _option(
        "--format",
        help="Format of the report on stdout, or of -o (default: text, or by the ending of -o).",
        metavar=f"<{'|'.join(names)}>",
        parser=lambda word: _known(word, names),
        autocompletion=lambda: names,
    )


def _known(word: str, names: list[str]) -> Format:
    if word not in names:
        raise typer.BadParameter(f"{word!r} is not one of {', '.join(names)}")
    return Format(word)  # typer 0.29 leaves what a parser returns as it is


def asked_format(json: bool, format_: Format | None) -> Format | None:
    """What --json and --format ask for together. Raises BncheckError."""
    if json and format_ not in (None, Format.JSON):
        raise BncheckError(f"--json and --format {format_} exclude each other", "give one of them")
    return Format.JSON if json else format_


JsonOption = Annotated[bool, _option("--json", help="Same as --format json.")]


@dataclass(frozen=True)
class ReportOptions:
    """The options about reports that every command has."""

    formats: ClassVar[tuple[Format, ...]] = REPORTS

    format_: Annotated[Format | None, format_option(REPORTS)] = None
    json: JsonOption = False
    report: Annotated[
        list[str] | None,
        _option(
            "--report",
            metavar="[FORMAT:]FILE",
            help="Also write a report, in this format or by its ending; repeatable.",
        ),
    ] = None
    quiet: Annotated[
        bool,
        _option("--quiet", "-q", help="Errors and warnings only."),
    ] = False
    verbose: Annotated[
        bool,
        _option("--verbose", "-v", help="Every finding, and a table of layers."),
    ] = False
    no_color: Annotated[
        bool,
        _option("--no-color", help="No colour, even on a terminal."),
    ] = False

    def delivery(self, output: Path | None = None) -> Delivery:
        """Where the report will go, checked now so that no work is lost.

        `output` is a file for the report in --format, or as its ending says, with text on stdout.
        Raises BncheckError.
        """
        if self.quiet and self.verbose:
            raise BncheckError("--quiet and --verbose exclude each other", "give one of them")
        asked = asked_format(self.json, self.format_)
        files = [_report_file(word, self.formats) for word in self.report or ()]
        if output is not None:
            found = format_of(output, asked, self.formats)
            files.append((_offered(found, self.formats), output))
            asked = None
        shown = asked or Format.TEXT
        if files:
            from bncheck.writing.atomic import check_target

            for _, path in files:
                check_target(path)
        if Format.HTML in (shown, *(format_ for format_, _ in files)):
            need("jinja2", "plotly", purpose="the HTML report")
        return Delivery(shown, tuple(files), self.quiet, self.verbose, self.no_color)


@dataclass(frozen=True)
class PictureOptions(ReportOptions):
    """Those of a command that has something to draw as SVG."""

    formats: ClassVar[tuple[Format, ...]] = PICTURES

    format_: Annotated[Format | None, format_option(PICTURES)] = None


@dataclass(frozen=True)
class Delivery:
    """Which report goes where."""

    shown: Format
    files: tuple[tuple[Format, Path], ...]
    quiet: bool
    verbose: bool
    no_color: bool

    @property
    def is_text(self) -> bool:
        """Whether stdout gets the report for people."""
        return self.shown is Format.TEXT and not self.quiet

    def write(self, said: Said, tally: Tally | None = None) -> None:
        """Write the files, each whole or not at all."""
        if self.files:
            from bncheck.writing.atomic import write_text

            for format_, path in self.files:
                write_text(path, self._rendered(format_, said, tally))

    def deliver(self, said: Said, tally: Tally | None = None) -> None:
        """Write the files, then show the result."""
        self.write(said, tally)
        if self.shown is not Format.TEXT:
            rendered = self._rendered(self.shown, said, tally)
            for start in range(0, len(rendered), _SLICE):  # encoded at once it would be there twice
                typer.echo(rendered[start : start + _SLICE], nl=False)
            return
        from bncheck.reporting import text

        terminal = console.result_console(self.no_color)
        if self.quiet:
            text.show_findings(terminal, said.pages().documents)
        else:
            text.show(terminal, said.pages(), verbose=self.verbose)

    def _rendered(self, format_: Format, said: Said, tally: Tally | None) -> str:
        """The tally knows what is a failure, and where the documentation lies."""
        if tally is None:
            return render(format_, said)
        return render(format_, said, tally.limit, tally.policy.docs_url)


def _report_file(word: str, formats: tuple[Format, ...]) -> tuple[Format, Path]:
    name, colon, path = word.partition(":")
    if colon and path:
        asked = _offered(name, formats)
        return format_of(Path(path), asked), Path(path)
    found = format_of(Path(word), None, formats)
    if not colon and found is not Format.TEXT:
        return _offered(found, formats), Path(word)
    raise BncheckError(
        f"--report {word!r} is not FORMAT:FILE", "write e.g. report.html or gitlab:report.json"
    )


def _offered(name: str, formats: tuple[Format, ...]) -> Format:
    if name in formats:
        return Format(name)
    known = ", ".join(item.value for item in formats)
    raise BncheckError(
        f"this command has no report in the format {str(name)!r}", f"choose from {known}"
    )
