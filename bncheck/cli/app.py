"""The commands, put together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from bncheck._version import __version__
from bncheck.cli.help import Root, command_class, width

#: In the order of the help; each is the function of its own name in the module of its own name.
COMMANDS: Final = (
    "inspect", "drift", "watch", "landscape", "recalibrate", "fold", "export", "compare", "gate",
    "rule",
)  # fmt: skip


class EndOfFileError(Exception):
    """An EOFError, its cause, past typer, which would print an empty line and abort."""


def build_group(first_word: str) -> Any:
    """The command line; with only the command that is named, for typer would build them all."""
    return _group((first_word,) if first_word in COMMANDS else COMMANDS, width())


@functools.cache
def _group(names: tuple[str, ...], columns: int) -> Any:
    app = typer.Typer(
        name="bncheck",
        rich_markup_mode=None,  # plain help, in half the time
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "terminal_width": columns},
    )
    app.callback(cls=Root, invoke_without_command=True)(_root)
    for name in names:
        module = import_module(f"bncheck.cli.{name}")
        app.command(name, cls=command_class(module.TOLD))(_guarded(getattr(module, name)))
    return typer.main.get_command(app)


def _guarded(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def command(**given: Any) -> int:
        try:
            return function(**given)
        except EOFError as error:
            raise EndOfFileError from error

    return command


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="With --version: also the platform and libraries."),
    ] = False,
) -> None:
    """Are the BatchNorm layers of a trained model sound?

    `bncheck COMMAND --help` has the options of a command, and examples.
    """
    if version:
        typer.echo(f"bncheck {__version__}")
        if verbose:
            from bncheck.cli.about import platform_lines

            typer.echo("\n".join(platform_lines()))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
