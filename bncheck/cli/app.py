"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from bncheck._version import __version__
from bncheck.cli import fold, inspect, recalibrate, rule

app = typer.Typer(
    name="bncheck",
    rich_markup_mode=None,  # plain help, in half the time
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("inspect")(inspect.inspect)
app.command("recalibrate")(recalibrate.recalibrate)
app.command("fold")(fold.fold)
app.command("rule")(rule.rule)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bncheck {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Are the BatchNorm layers of a trained model sound?

    Exit codes: 0 sound, 1 findings at or above --fail-on, 2 could not be done.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
