"""Sentences in which commands stand between backticks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: What the one number is, once in every report that has it.
W2_IS: Final = "W2 is the RMS error of a layer's normalised output"

#: A backtick at the beginning of a word and the next one at the end of a word: a name in the
#: command may hold backticks of its own.
_OPENING: Final = re.compile(r"(?<![^\s(])`(?=\S)")
_CLOSING: Final = re.compile(r"(?<=\S)`(?=[\s;,.:)]|$)")


def spans(sentence: str) -> Iterator[tuple[str, bool]]:
    """The parts of a sentence, not escaped, and whether each is code, without its backticks.

    A hostile name can make the wrong words code, but nothing other than words.
    """
    end = 0
    while (opening := _OPENING.search(sentence, end)) and (
        closing := _CLOSING.search(sentence, opening.end() + 1)
    ):
        if opening.start() > end:
            yield sentence[end : opening.start()], False
        yield sentence[opening.end() : closing.start()], True
        end = closing.end()
    if end < len(sentence):
        yield sentence[end:], False
