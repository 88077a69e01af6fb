"""JSON from a file, parsed only if it is no larger than a checkpoint needs."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_JSON_VALUES

#: The first bytes of letters beyond U+FFFF; one of them makes Python keep four bytes for each.
_FOUR_BYTES: Final = re.compile(rb"[\xf0-\xff]")
_VALUE_BYTES: Final = 64


def parse(text: str | bytes, budget: Budget | None = None) -> Any:
    """What a JSON text says; ValueError or RecursionError where it says nothing.

    `budget` is that of the checkpoint that it belongs to.
    Raises BncheckError, before anything is built, for one with too many values.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    values = sum(map(data.count, (b"{", b"[", b",")))
    if values > MAX_JSON_VALUES:
        raise BncheckError(
            f"holds JSON of more than {MAX_JSON_VALUES:,} values (limit MAX_JSON_VALUES)",
            "check where it comes from",
        )
    if budget is not None:
        width = 1 if data.isascii() else 4 if _FOUR_BYTES.search(data) else 2
        budget.operations.take(values)
        budget.held.take(values * _VALUE_BYTES + 2 * width * len(data))  # the text, and those in it
    return json.loads(text)
