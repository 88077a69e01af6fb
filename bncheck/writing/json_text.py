"""JSON that every parser accepts: NaN and infinities as strings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping

from bncheck.core.words import without_secrets


def dump(value: object) -> str:
    """ASCII JSON with a newline at its end, so that no name can leave its string.

    As `json.dumps(value, indent=2)` writes it, but an iterator is a list whose items are made one
    by one, and no copy is made of the whole: a report may have 100,000 findings.
    """
    return _text(value, "\n") + "\n"


def _text(value: object, line: str) -> str:
    """A value whose own lines begin with `line`."""
    if isinstance(value, Mapping):
        return _block("{", (_entry(*item, line + "  ") for item in value.items()), "}", line)
    if isinstance(value, (list, tuple, Iterator)):
        return _block("[", (_text(item, line + "  ") for item in value), "]", line)
    if isinstance(value, float) and not math.isfinite(value):
        return '"nan"' if math.isnan(value) else '"inf"' if value > 0 else '"-inf"'
    text = json.dumps(without_secrets(value) if isinstance(value, str) else value)
    # `##[add-mask]` in a name would be a command to a CI runner that reads stdout.
    return re.sub("#(?=#)", r"\\u0023", text) if "##" in text else text


def _entry(key: object, value: object, line: str) -> str:
    return f"{_text(str(key), line)}: {_text(value, line)}"


def _block(opening: str, items: Iterable[str], closing: str, line: str) -> str:
    content = f",{line}  ".join(items)
    return f"{opening}{line}  {content}{line}{closing}" if content else opening + closing
