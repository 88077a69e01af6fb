"""Small text files that a user names: configuration, baseline, an earlier report."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.core.words import shortened
from bncheck.reading.json_text import parse

#: No configuration or report is larger; /dev/zero is.
_MOST: Final = 64 << 20


def read_text(path: Path, hint: str) -> str:
    """The file's text. Raises BncheckError with this hint where it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BncheckError("is not a file", hint, str(path))
        if status.st_size > _MOST:
            raise BncheckError(f"is larger than {_MOST >> 20} MiB", hint, str(path))
        return path.read_text("utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise BncheckError(f"cannot be read ({reason})", hint, str(path)) from None
    except UnicodeDecodeError:
        raise BncheckError("is not UTF-8", hint, str(path)) from None


def read_json(path: Path, schema: str, what: str, hint: str) -> dict[str, Any]:
    """The object in a JSON file of this schema, which is `what`. Raises BncheckError."""
    text = read_text(path, hint)
    try:
        data = parse(text)
    except BncheckError as error:
        raise error.about(str(path)) from None
    except (ValueError, RecursionError):
        data = None
    given = data.get("schema") if isinstance(data, dict) else None
    if given == schema:
        return data  # type: ignore[no-any-return]
    kind, _, version = schema.partition("/")
    if isinstance(given, str) and given.startswith(f"{kind}/"):
        other = shortened(given.removeprefix(f"{kind}/"))
        raise BncheckError(
            f"is a {what} of format {other}, and this bncheck reads {version}",
            f"use the bncheck that made it, or {hint}",
            str(path),
        )
    raise BncheckError(f"is not a {what}", hint, str(path))
