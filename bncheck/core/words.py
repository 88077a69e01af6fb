"""Words for numbers and names, and who is told them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

#: What a URL may hold that is nobody's business: user and password, signatures and tokens.
_LOGIN: Final = re.compile(r"(?<=://)[^/\s@]{1,500}@")
_SIGNED: Final = re.compile(
    r"(?<=[?&])((?:x-amz-|x-goog-)?(?:signature|credential|security-token)|sig|se?cret|token|"
    r"access_token|api_?key|key)=[^&#\s]+",
    re.IGNORECASE,
)

#: Characters of the longest names that people give.
_LONGEST: Final = 200

#: Is told a line that is worth knowing beside the result.
Note: TypeAlias = Callable[[str], None]


def unsaid(_line: str) -> None:
    """A Note that discards what it is told."""


def tell_all(lines: Iterable[str], note: Note) -> None:
    """Tell the lines one by one."""
    for line in lines:
        note(line)


def count(number: int, noun: str, plural: str = "") -> str:
    """1 channel, 3 channels, 2 batches."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def a_kind(value: object) -> str:
    """What kind of thing a value is: a dict, an int, None."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name.lower().startswith(('a', 'e', 'i', 'o', 'nd')) else 'a'} {name}"


def percent(share: float, digits: int = 1) -> str:
    """61.8%, and 100.0% or 0.0% only of all or none: one of 10,000 is less than 0.1%."""
    text = f"{share:.{digits}%}"
    if 0 < share < 1 and float(text[:-1]) in (0, 100):
        step = f"{10.0**-digits:.{digits}f}"
        return f"less than {step}%" if share < 0.5 else f"more than {100 - float(step):.{digits}f}%"
    return text


def as_argument(path: object) -> str:
    """A path as a word of a command line, which no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def shortened(name: str, longest: int = _LONGEST) -> str:
    """A name of a file; the beginning of one that is longer than names are."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that a mistyped one is most like; none is like a word that no name is as long
    as.
    """
    import difflib  # for a mistake alone

    near = difflib.get_close_matches(word, known, 1, likeness) if len(word) <= _LONGEST else []
    return near[0] if near else None


def without_secrets(text: str) -> str:
    """A URL, or a sentence with one in it, as it may stand in a log: secrets become ***."""
    if "://" not in text:
        return text
    return _SIGNED.sub(r"\1=***", _LOGIN.sub("***@", text))
