"""The functions of a TorchScript archive, parsed when they are asked for, within limits."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.reading.pickle_values import Global
from bncheck.reading.torchscript_code import Sources

#: The largest networks have some 100 kB of code.
MOST_CODE: Final = 1 << 20
#: Words and signs in it: each may become a node of a kilobyte; 100 kB of a network have 35,000.
_MOST_WORDS: Final = 200_000
_WORD: Final = re.compile(r"\w+|[^\w\s]")


class TooMuchCodeError(BncheckError):
    """Code beyond the limits."""

    def __init__(self, sentence: str = "has too much code to follow") -> None:
        super().__init__(sentence, "export it with torch.export")


class Functions:
    """Those of classes and files by their names, and which of them were walked through."""

    def __init__(self, source: Sources) -> None:
        self._source = source
        self._letters, self._words = MOST_CODE, _MOST_WORDS
        self._parsed: dict[Global | str, Mapping[str, ast.FunctionDef]] = {}
        self._taken: set[tuple[Global | str, str]] = set()

    def take(self, place: Global | str | None, name: str) -> ast.FunctionDef | None:
        """A function that is walked through; None where the archive does not hold it."""
        found = None if place is None else self._of(place).get(name)
        if found is not None and place is not None:
            self._taken.add((place, name))
        return found

    def for_callers(self, kind: Global) -> list[str]:
        """The methods of a class that were not taken, and that no other code calls."""
        return [
            name
            for name in self._of(kind)
            if (kind, name) not in self._taken
            and not name.startswith("__")  # the loader's
            and not self._source.calls_method(name)
        ]

    def left_out(self) -> bool:
        """Whether there is a class or a file that speaks of statistics and was not looked at."""
        seen = {place for place, _ in self._taken}
        return any(place not in seen for place in self._source.speaking())

    def _of(self, place: Global | str) -> Mapping[str, ast.FunctionDef]:
        if place not in self._parsed:
            source = self._source
            code = source.file(place) if isinstance(place, str) else source.body(place)
            self._parsed[place] = self._parse(code)
        return self._parsed[place]

    def _parse(self, code: str) -> Mapping[str, ast.FunctionDef]:
        self._letters -= len(code)
        if self._letters >= 0:
            self._words -= sum(1 for _ in _WORD.finditer(code))
        if min(self._letters, self._words) < 0:
            raise TooMuchCodeError
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in texts
                tree = ast.parse(code)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return {}
        bodies = [item.body for item in tree.body if isinstance(item, ast.ClassDef)]
        found = [item for body in (tree.body, *bodies) for item in body]
        return {item.name: item for item in found if isinstance(item, ast.FunctionDef)}
