"""`bncheck rule`."""

from __future__ import annotations

from typing import Annotated

import typer

from bncheck._version import __version__
from bncheck.cli import console
from bncheck.cli.options import NoColorOption
from bncheck.cli.reporting import FormatOption, JsonOption
from bncheck.core.errors import BncheckError, ExitCode
from bncheck.reporting.formats import Format


def rule(
    code: Annotated[
        str | None,
        typer.Argument(metavar="[CODE]", help="A rule's code or name: BN101."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="List every rule.")] = False,
    format_: FormatOption = Format.TEXT,
    json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Explain a rule: what it finds, its criterion and the fix."""
    from bncheck.rules.registry import RULES, find_rule

    if all_ == (code is not None):
        raise BncheckError("`bncheck rule` wants one CODE, or --all", "try `bncheck rule BN101`")
    rules = RULES if code is None else (find_rule(code),)
    if json or format_ is Format.JSON:
        from bncheck.writing.json_text import dump

        found = [rule.to_dict() for rule in rules]
        typer.echo(
            dump({"schema": "bncheck.rule/1", "bncheck": __version__, "rules": found}), nl=False
        )
        return ExitCode.OK
    from bncheck.reporting.text.rules import show_rule, show_rules

    terminal = console.result_console(no_color)
    if code is None:
        show_rules(terminal, rules)
    else:
        show_rule(terminal, rules[0])
    return ExitCode.OK
