"""`bncheck gate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.options import OutputOption
from bncheck.cli.places import place, say_traffic
from bncheck.cli.policy import PolicyOptions, Tally
from bncheck.cli.reporting import ReportOptions
from bncheck.core.errors import BncheckError, ExitCode, quoted
from bncheck.core.matching import matches

if TYPE_CHECKING:
    from bncheck.policy.config.load import Configuration


TOLD: Final = Told(
    (
        "bncheck gate --init",
        "bncheck gate",
        "bncheck gate resnet --against last.json --report sarif:gate.sarif",
    ),
)


@expanded
def gate(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Only these models."),
    ] = None,
    *,
    init: Annotated[bool, typer.Option("--init", help="Write a starter [tool.bncheck].")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of [tool.bncheck].")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="REPORT", help="Fail on regressions from this JSON report."
        ),
    ] = None,
    output: OutputOption = None,
    policy_options: PolicyOptions,
    reporting: ReportOptions,
) -> int:
    """Check all models that pyproject.toml declares; for CI.

    One report, and the worst exit code. What code it will run is said first.
    """
    if init:
        from bncheck.policy.config.template import write_template

        console.note(write_template(policy_options.config))
        return ExitCode.OK
    if schema:
        from bncheck.policy.config.load import schema as schema_of
        from bncheck.writing.json_text import dump

        typer.echo(dump(schema_of()), nl=False)
        return ExitCode.OK
    return _run(names or [], against, output, policy_options, reporting)


def _run(
    names: list[str],
    against: Path | None,
    output: Path | None,
    policy_options: PolicyOptions,
    reporting: ReportOptions,
) -> int:
    from bncheck.gate.files import files_compared, files_exported, files_read
    from bncheck.gate.regression import read_previous
    from bncheck.gate.run import Gate
    from bncheck.policy.config.find import FILE
    from bncheck.reporting.documents.gate import pages
    from bncheck.reporting.formats import Said

    tally = policy_options.tally()
    configuration = tally.configuration
    if configuration is None:
        raise BncheckError(
            "found no [tool.bncheck] in this folder or its parents",
            "`bncheck gate --init` writes one",
            FILE,
        )
    delivery = reporting.delivery(output)
    growth = configuration.settings.against.w2_growth
    previous = None if against is None else read_previous(against, growth)
    gate = Gate(configuration, tally.policy, tally.count, console.note, previous)
    models = gate.models(names)
    read = [*files_read(configuration, models), *([against] if against else [])]
    check_files(read, files_exported(configuration, models), tally, delivery)
    check_files(files_compared(configuration, models), (), tally, delivery)
    report = gate.run(names)
    for error in report.errors:
        console.error(str(error))
    say_traffic(dict.fromkeys(place(r.path) for model in report.models for r in model.results))
    checked = {model.name for model in report.models if not model.errors}
    _say_unused(tally, configuration, checked)
    delivery.deliver(Said(report.to_dict, lambda: pages(report)), tally)
    every = [None] if checked == configuration.settings.models.keys() else []
    return tally.finish(report.findings, bool(report.errors), {*checked, *every})


def _say_unused(tally: Tally, configuration: Configuration, checked: set[str]) -> None:
    """An exception that excepts nothing would one day hide something new.

    It is said once all models that it is meant for were checked.
    """
    for index, entry in enumerate(tally.policy.exceptions):
        meant = {name for name in configuration.settings.models if matches(name, entry.models)}
        if index not in tally.used and meant <= checked:
            where = f"{entry.rule} in {quoted(entry.layers)}"
            of = "" if entry.models == "*" else f" of {quoted(entry.models)}"
            console.note(
                f"{configuration.file}: the exception for {where}{of} matches no finding; remove it"
            )
