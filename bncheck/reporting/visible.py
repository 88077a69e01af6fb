"""Names from a file made safe to show, whatever they contain.

A tensor may be called "\\x1b]0;owned\\x07" or "\\n::stop-commands::x": such characters would drive
the terminal, the CI runner or the reader's eye (bidirectional overrides). They become escapes.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from bncheck.core.words import without_secrets

#: Longer names are cut in the middle of nowhere by their authors; 200 characters tell enough.
MAX_NAME: Final = 200

#: Letters of a line: room for the longest path, and for what is said about it at the end. A command
#: line or a configuration may hold words of a megabyte.
_LONGEST_LINE: Final = 5000
_END: Final = 800

#: Control, format (bidi, zero width), surrogate, private use, unassigned, line separators, spaces
#: but the usual one, and marks that are drawn over their neighbours.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs", "Mn", "Me"})
#: Letters and symbols that are drawn as nothing: Hangul fillers, the empty Braille cell.
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")

#: CI runners obey lines that begin with `::` (GitHub; a long line may be wrapped so that one does)
#: and, anywhere in a line, `##[` (GitHub, Azure), `##vso[` (Azure) and `##teamcity[`.
_COMMAND: Final = re.compile(r":(?=:)|#(?=#)")


def visible(text: str, limit: int | None = MAX_NAME) -> str:
    """`text` with every invisible or steering character as its escape, at most `limit` long.

    Passwords and signatures in URLs are left out.
    """
    shown = without_secrets(text)[: limit and limit + 1]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(map(_escape, shown))
    shown = _COMMAND.sub(lambda match: f"\\x{ord(match[0]):02x}", shown)
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def layer_name(name: str | None) -> str:
    """A layer as it is called in a sentence, safe to show."""
    if name is None:
        return "whole model"
    return visible(name) or "(root)"


def visible_line(text: str) -> str:
    """A sentence likewise; of one too long the beginning, and the end, which says what to do."""
    return _cut(visible(_cut(text), None))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - _END]}…{text[-_END:]}"


def _escape(character: str) -> str:
    if character.isascii() and character.isprintable():
        return character
    if unicodedata.category(character) in _HIDDEN or character in _BLANK:
        return character.encode("unicode_escape").decode("ascii")
    return character
