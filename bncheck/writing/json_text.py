"""JSON that every parser accepts: NaN and infinities as strings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping


def dump(value: object) -> str:
    """ASCII JSON with a newline at its end, so that no name can leave its string.

    `##[add-mask]` in a name would be a command to a CI runner that reads stdout.
    """
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    return re.sub("#(?=#)", r"\\u0023", text) + "\n"


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
