"""Names from a file made safe to show, whatever they contain.

A tensor may be called "\\x1b]0;owned\\x07" or "\\n::stop-commands::x": such characters would drive
the terminal, the CI runner or the reader's eye (bidirectional overrides). They become escapes.
"""

from __future__ import annotations

import unicodedata
from typing import Final

#: GitHub's runner obeys `##[command]` wherever in a line it stands, and `::command::` at its start.
_COMMAND: Final = "##["

#: Longer names are cut in the middle of nowhere by their authors; 200 characters tell enough.
MAX_NAME: Final = 200

#: Control, format (bidi, zero width), surrogate, private use, unassigned, line separators.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str, limit: int | None = MAX_NAME) -> str:
    """`text` with every invisible or steering character as its escape, at most `limit` long."""
    shown = "".join(_escape(character) for character in text[: limit and limit + 1])
    shown = shown.replace(_COMMAND, r"#\x23[")
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def _escape(character: str) -> str:
    if character.isascii() and character.isprintable():
        return character
    if unicodedata.category(character) in _HIDDEN:
        return character.encode("unicode_escape").decode("ascii")
    return character
