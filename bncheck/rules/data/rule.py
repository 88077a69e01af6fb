"""What a rule about a measurement is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, nothing

if TYPE_CHECKING:  # for files alone, numpy and the measuring need not be imported
    from bncheck.rules.data.case import Case

Judge = Callable[["MeasuredRule", "Case"], Iterable[Finding]]


@dataclass(frozen=True)
class MeasuredRule(Rule):
    """A rule about a measurement. A file alone gives it nothing to check."""

    judge: Judge = nothing


def measured_rule(code: str, name: str, *severities: Severity) -> Callable[[Judge], MeasuredRule]:
    """Make a judge function a rule; its docstring is the explanation."""
    return lambda judge: MeasuredRule(
        code, name, severities, inspect.getdoc(judge) or "", judge=judge
    )
