"""JSON that every parser accepts: NaN and infinities as strings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from bncheck.core.words import without_secrets

_ENCODE: Final = json.JSONEncoder().encode


def dump(value: object) -> str:
    """ASCII JSON with a newline at its end, so that no name can leave its string.

    As `json.dumps(value, indent=2)` writes it, but an iterator is a list whose items are made one
    by one, and no copy is made of the whole: a report may have 100,000 findings.
    """
    return _text(value, "\n") + "\n"


def _text(value: object, line: str) -> str:
    """A value whose own lines begin with `line`."""
    if isinstance(value, str):
        text = _ENCODE(without_secrets(value))
        # `##[add-mask]` in a name would be a command to a CI runner that reads stdout.
        return re.sub("#(?=#)", r"\\u0023", text) if "##" in text else text
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (dict, Mapping)):  # an abstract class takes ten times as long to ask
        return _block("{", [_entry(*item, line + "  ") for item in value.items()], "}", line)
    if isinstance(value, (list, tuple, Iterator)):
        return _block("[", (_text(item, line + "  ") for item in value), "]", line)
    return _ENCODE(value)


def _number(value: float) -> str:
    if math.isfinite(value):
        return _ENCODE(value)
    return '"nan"' if math.isnan(value) else '"inf"' if value > 0 else '"-inf"'


def _entry(key: object, value: object, line: str) -> str:
    return f"{_text(str(key), line)}: {_text(value, line)}"


def _block(opening: str, items: Iterable[str], closing: str, line: str) -> str:
    content = f",{line}  ".join(items)
    return f"{opening}{line}  {content}{line}{closing}" if content else opening + closing
