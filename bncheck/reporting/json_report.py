"""JSON that every parser accepts: NaN and infinities as strings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from bncheck._version import __version__
from bncheck.errors import BncheckError
from bncheck.inspect_report import InspectReport
from bncheck.rules.rule import Rule


def render(reports: Sequence[InspectReport], errors: Sequence[BncheckError], several: bool) -> str:
    """One report as itself; several, or several inputs, in a list with what could not be read."""
    if not several:
        return dump(reports[0].to_dict())
    return dump(
        {
            "schema": "bncheck.inspect/1",
            "bncheck": __version__,
            "reports": [report.to_dict() for report in reports],
            "errors": [{"path": e.subject, "message": _message(e)} for e in errors],
        }
    )


def render_rules(rules: Sequence[Rule]) -> str:
    """The rules as data."""
    return dump(
        {
            "schema": "bncheck.rule/1",
            "bncheck": __version__,
            "rules": [
                {
                    "code": rule.code,
                    "name": rule.name,
                    "severities": [severity.value for severity in rule.severities],
                    "summary": rule.summary,
                    "explanation": rule.explanation,
                }
                for rule in rules
            ],
        }
    )


def dump(value: object) -> str:
    """ASCII JSON with a newline at its end, so that no name can leave its string."""
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _message(error: BncheckError) -> str:
    return f"{error.sentence}; {error.hint}" if error.hint else error.sentence


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
