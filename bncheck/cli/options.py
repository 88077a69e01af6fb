"""Options that commands share, declared once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from bncheck.errors import BncheckError, ExitCode
from bncheck.findings import Finding, Severity


class Format(str, Enum):
    """How a report is rendered."""

    TEXT = "text"
    JSON = "json"


class FailOn(str, Enum):
    """The mildest severity that makes the exit code 1."""

    ERROR = "error"
    WARNING = "warning"
    NEVER = "never"


# typer reads these annotations at run time, and on Python 3.10 needs Optional spelled out.
FormatOption = Annotated[Format, typer.Option("--format", help="How stdout reports.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
OutputOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("-o", "--output", help="Write the report in --format to this file."),
]
ReportOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--report", metavar="FORMAT:FILE", help="Also write a report; repeatable."),
]
KeyOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--key", help="Which part of the checkpoint, e.g. ema or state_dict."),
]
EpsOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--eps", min=0.0, help="eps of the layers, where the file has none."),
]
MomentumOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--momentum",
        min=0.0,
        max=1.0,
        help="Momentum in PyTorch's convention, where the file has none.",
    ),
]
FailOnOption = Annotated[FailOn, typer.Option("--fail-on", help="What makes the exit code 1.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and warnings only.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Every finding, and a table of all layers.")
]
NoColorOption = Annotated[bool, typer.Option("--no-color", help="Plain text on a terminal, too.")]


def outputs(
    format_: Format, output: Path | None, reports: list[str]
) -> tuple[Format, list[tuple[Format, Path]]]:
    """What goes to stdout, and which files to write; refuses a malformed --report."""
    from bncheck.reporting.write import check_target

    files = [_report_file(word) for word in reports]
    if output is not None:
        files.append((format_, output))
        format_ = Format.TEXT
    for _, path in files:
        check_target(path)
    return format_, files


def _report_file(word: str) -> tuple[Format, Path]:
    name, colon, path = word.partition(":")
    if not colon or not path:
        raise BncheckError(f"--report {word!r} is not FORMAT:FILE", "write e.g. json:report.json")
    try:
        return Format(name), Path(path)
    except ValueError:
        known = ", ".join(item.value for item in Format)
        raise BncheckError(f"--report has no format {name!r}", f"there is {known}") from None


def exit_code(findings: list[Finding], fail_on: FailOn) -> ExitCode:
    """FINDINGS where something is at or above the threshold."""
    if fail_on is FailOn.NEVER:
        return ExitCode.OK
    limit = Severity(fail_on.value).rank
    bad = any(finding.severity.rank <= limit for finding in findings)
    return ExitCode.FINDINGS if bad else ExitCode.OK
