"""JSON that every parser accepts: NaN and infinities as strings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

from bncheck._version import __version__
from bncheck.errors import BncheckError
from bncheck.rules.rule import Rule


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
    """ASCII JSON with a newline at its end, so that no name can leave its string.

    `##[add-mask]` in a name would be a command to a CI runner that reads stdout.
    """
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    return re.sub("#(?=#)", r"\\u0023", text) + "\n"


def errors_data(errors: Sequence[BncheckError]) -> list[dict[str, object]]:
    """What could not be read, a path and a sentence each."""
    return [
        {"path": e.subject, "message": f"{e.sentence}; {e.hint}" if e.hint else e.sentence}
        for e in errors
    ]


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
