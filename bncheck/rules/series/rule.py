"""What a rule about several snapshots is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, nothing

if TYPE_CHECKING:  # for one file alone, the series need not be imported
    from bncheck.series.movement import Movement

Judge = Callable[["SeriesRule", "Movement"], Iterable[Finding]]


@dataclass(frozen=True)
class SeriesRule(Rule):
    """A rule about several snapshots. One file alone gives it nothing to check."""

    judge: Judge = nothing


def series_rule(code: str, name: str, *severities: Severity) -> Callable[[Judge], SeriesRule]:
    """Make a judge function a rule; its docstring is the explanation."""
    return lambda judge: SeriesRule(
        code, name, severities, inspect.getdoc(judge) or "", judge=judge
    )
