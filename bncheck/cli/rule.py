"""`bncheck rule`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bncheck._version import __version__
from bncheck.cli.completion import rules
from bncheck.cli.help import Told
from bncheck.cli.options import NoColorOption
from bncheck.cli.reporting import Delivery, JsonOption, asked_format, format_option
from bncheck.core.errors import BncheckError, ExitCode
from bncheck.reporting.formats import EXPLANATIONS, Format, Said, said

if TYPE_CHECKING:
    from bncheck.rules.rule import AnyRule


TOLD: Final = Told(
    (
        "bncheck rule BN101",
        "bncheck rule --all",
    ),
    done="explained",
    failed=None,
)


def rule(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="[CODE]", help="A rule's code or name: BN101.", autocompletion=rules
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="List every rule.")] = False,
    format_: Annotated[Format | None, format_option(EXPLANATIONS)] = None,
    json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Explain a rule: what it finds, its criterion and the fix."""
    from bncheck.rules.registry import RULES, find_rule

    if all_ == (code is not None):
        raise BncheckError("`bncheck rule` needs one CODE, or --all", "try `bncheck rule BN101`")
    rules = RULES if code is None else (find_rule(code),)
    shown = asked_format(json, format_) or Format.TEXT
    delivery = Delivery(shown, (), quiet=False, verbose=True, no_color=no_color)
    delivery.deliver(_said(rules, is_list=all_))
    return ExitCode.OK


def _said(rules: Sequence[AnyRule], is_list: bool) -> Said:
    from bncheck.reporting.documents.rule import document, index

    def data() -> dict[str, object]:
        found = [rule.to_dict() for rule in rules]
        return {"schema": "bncheck.rule/1", "bncheck": __version__, "rules": found}

    return said(data, lambda: index(rules) if is_list else document(rules[0]))
