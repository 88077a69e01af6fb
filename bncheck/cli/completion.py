"""What the shell offers at TAB for rules and for the parts of a file."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from bncheck.core.errors import BncheckError

#: A shell pastes what is offered into its own line, so a file's names must mean nothing to it.
_PLAIN: Final = re.compile(r"[\w.-]+", re.ASCII)


def rules(incomplete: str) -> list[tuple[str, str]]:
    """Codes and names that go on from what was typed, a code only where nothing was."""
    from bncheck.rules.registry import RULES

    codes = [(rule.code, f"{rule.name}: {rule.summary}") for rule in RULES]
    names = [(rule.name, f"{rule.code}: {rule.summary}") for rule in RULES if incomplete]
    return [pair for pair in (*codes, *names) if pair[0].startswith(incomplete)]


def rule_lists(incomplete: str) -> list[tuple[str, str]]:
    """The same for the last rule of a list: BN101,BN1."""
    done, comma, last = incomplete.rpartition(",")
    return [(f"{done}{comma}{rule}", told) for rule, told in rules(last)]


def keys(ctx: Any) -> list[str]:
    """The parts of the checkpoints that the command line names so far, models first."""
    from bncheck.reading.opening import keys_in

    found: list[str] = []
    for word in _words(ctx):
        try:
            found += keys_in(word)
        except BncheckError:  # it will be said when the command runs
            continue
    return [key for key in dict.fromkeys(found) if _PLAIN.fullmatch(key)]


def _words(ctx: Any) -> list[str]:
    """Files named as arguments: click has read them, or left them because the line is not whole."""
    words = list(ctx.args)
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name) if parameter.param_type_name == "argument" else None
        words += value if isinstance(value, (list, tuple)) else [value]
    return [word for word in map(str, words) if os.path.lexists(word)]
