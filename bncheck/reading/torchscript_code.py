"""The source code in a TorchScript archive, as text: classes, and calls of batch_norm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.reading.pickle_values import Global, Value
from bncheck.reading.zip_archive import ZipArchive

_CLASS: Final = re.compile(r"^class (\w+)\(", re.MULTILINE)
_CALL: Final = re.compile(r"torch\.(batch_norm|instance_norm)\(")
_NORM: Final = re.compile(r"batch_norm|instance_norm|\b_*(?:running|moving|population)_")
_BRACKET: Final = re.compile(r"[()\[\],]")
# torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)
# and torch.instance_norm(..., use_input_stats, momentum, eps, cudnn).
_ARGUMENTS: Final = 9
_ROLES: Final = ("weight", "bias", "running_mean", "running_var")
#: Brackets and commas looked at for all calls of an archive: a call has a dozen.
_MOST_BRACKETS: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class NormCall:
    """A call of batch_norm or instance_norm, its arguments as they are written."""

    operator: str
    arguments: dict[str, str]
    training: str
    momentum: str
    eps: str


class Sources:
    """The code of an archive, each file read once."""

    def __init__(self, archive: ZipArchive) -> None:
        self._archive = archive
        self._texts: dict[str, str] = {}
        self._classes: dict[str, dict[str, str]] = {}
        self._speaks: dict[Global, bool] = {}
        self._brackets = _MOST_BRACKETS

    def body(self, kind: Global) -> str:
        """The source of a class, or "" where the archive does not hold it."""
        path = f"code/{kind.module.replace('.', '/')}.py"
        if path not in self._classes:
            self._classes[path] = _split(self._text(path) if path in self._archive else "")
        return self._classes[path].get(kind.name, "")

    def speaks_of_norms(self, kind: Global) -> bool:
        """Whether a class calls batch_norm or the like, or names running statistics."""
        if kind not in self._speaks:
            self._speaks[kind] = bool(_NORM.search(self.body(kind)))
        return self._speaks[kind]

    def everything(self) -> list[str]:
        """All files."""
        names = [name for name in self._archive.names if re.fullmatch(r"code/.*\.py", name)]
        return [self._text(name) for name in names]

    def _text(self, path: str) -> str:
        if path not in self._texts:
            self._texts[path] = self._archive.text(path)
        return self._texts[path]

    def calls(self, text: str) -> Iterator[NormCall]:
        """The calls of batch_norm and instance_norm in a text."""
        for match in _CALL.finditer(text):
            words = self._arguments(text, match.end())
            if len(words) == _ARGUMENTS:
                roles = dict(zip(_ROLES, words[1:5], strict=True))
                yield NormCall(match[1], roles, *words[5:8])

    def _arguments(self, text: str, start: int) -> list[str]:
        """What stands between the commas of a call whose bracket opens before `start`."""
        words, depth = [], 0
        for bracket in _BRACKET.finditer(text, start):
            self._brackets -= 1
            if self._brackets < 0:
                raise BncheckError(
                    "holds TorchScript code of calls without an end", "check where it is from"
                )
            if depth == 0 and bracket[0] != "(" and bracket[0] != "[":
                words.append(text[start : bracket.start()].strip())
                start = bracket.end()
                if bracket[0] != "," or len(words) > _ARGUMENTS:
                    break
            depth += {"(": 1, "[": 1, ",": 0}.get(bracket[0], -1)
        return words


def _split(text: str) -> dict[str, str]:
    starts = [*_CLASS.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    bodies: dict[str, str] = {}
    for match, end in zip(starts, ends, strict=False):
        bodies[match[1]] = bodies.get(match[1], "") + text[match.start() : end]
    return bodies


def literal(text: str) -> Value:
    """A number or a truth value, or None for anything else."""
    try:
        return {"True": True, "False": False}[text] if text in ("True", "False") else float(text)
    except ValueError:
        return None
