"""JSON from a file, parsed only if it is no more than a checkpoint has."""

from __future__ import annotations

import json
from typing import Any

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_JSON_VALUES


def parse(text: str) -> Any:
    """What a JSON text says; ValueError or RecursionError where it says nothing.

    Raises BncheckError, before anything is built, for one with too many values.
    """
    if sum(map(text.count, "{[,")) > MAX_JSON_VALUES:
        raise BncheckError(
            f"holds JSON of more than {MAX_JSON_VALUES:,} values (limit MAX_JSON_VALUES)",
            "check where it is from",
        )
    return json.loads(text)
