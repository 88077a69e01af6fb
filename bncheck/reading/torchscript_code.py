"""The source code in a TorchScript archive, as text: classes, and calls of batch_norm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bncheck.reading.pickle_values import Global, Value
from bncheck.reading.zip_archive import ZipArchive

_CLASS: Final = re.compile(r"^class ([^\s(]+)\(", re.MULTILINE)
_FINAL: Final = re.compile(r"^  (\w+) : Final\[\w+\] = (\S{1,99})$", re.MULTILINE)
_CALL: Final = re.compile(r"torch\.(batch_norm|instance_norm)\(")
_NORM: Final = re.compile(r"batch_norm|instance_norm|\b_*(?:running|moving|population)_")
_BRACKET: Final = re.compile(r"[()\[\],]")
# torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)
# and torch.instance_norm(..., use_input_stats, momentum, eps, cudnn).
_ARGUMENTS: Final = 9
_ROLES: Final = ("weight", "bias", "running_mean", "running_var")
SETSTATE: Final = "__setstate__"


@dataclass(frozen=True, slots=True)
class NormCall:
    """A call of batch_norm or instance_norm, its arguments as they are written."""

    operator: str
    arguments: dict[str, str]
    training: str
    momentum: str
    eps: str


@dataclass(frozen=True, slots=True)
class LayerCode:
    """What the class of a layer says. In a traced one the mode is a constant (`fixed_mode`)."""

    constants: dict[str, Value]
    call: NormCall | None
    fixed_mode: bool


class Sources:
    """The code of an archive, each file read and each class looked through once.

    Texts are kept as Latin-1: in UTF-8 a single emoji would make every letter take four bytes.
    """

    def __init__(self, archive: ZipArchive) -> None:
        self._archive = archive
        self.budget = archive.budget
        self._texts: dict[str, str] = {}
        self._classes: dict[str, dict[str, str]] = {}
        self._speaks: dict[Global, bool] = {}
        self._rebuilds: dict[Global, bool] = {}
        self._layers: dict[Global, LayerCode] = {}

    def body(self, kind: Global) -> str:
        """The source of a class, or "" where the archive does not hold it."""
        path = f"code/{kind.module.replace('.', '/')}.py"
        if path not in self._classes:
            self._classes[path] = _split(self._text(path) if path in self._archive else "")
        return self._classes[path].get(_latin(kind.name), "")

    def layer(self, kind: Global) -> LayerCode:
        """What the class of a layer says; nothing where the archive does not hold it."""
        if kind not in self._layers:
            body = self.body(kind)
            constants = {name: literal(text) for name, text in _FINAL.findall(body)}
            fixed = "training0" not in body and "bn_training" not in body
            self._layers[kind] = LayerCode(constants, next(self.calls(body), None), fixed)
        return self._layers[kind]

    def rebuilds(self, kind: Global) -> bool:
        """Whether a class has code that makes its objects of what was saved, or is unknown."""
        if kind not in self._rebuilds:
            body = self.body(kind)
            self._rebuilds[kind] = not body or SETSTATE in body
        return self._rebuilds[kind]

    def speaks_of_norms(self, kind: Global) -> bool:
        """Whether a class calls batch_norm or the like, or names running statistics."""
        if kind not in self._speaks:
            self._speaks[kind] = bool(_NORM.search(self.body(kind)))
        return self._speaks[kind]

    def file(self, path: str) -> str:
        """A file's text, or "" where the archive does not hold it."""
        return self._text(path) if path in self._archive else ""

    def everything(self) -> list[str]:
        """All files."""
        return [*self.files().values()]

    def files(self) -> dict[str, str]:
        """All files by their names."""
        names = [name for name in self._archive.names if re.fullmatch(r"code/.*\.py", name)]
        return {name: self._text(name) for name in names}

    def _text(self, path: str) -> str:
        if path not in self._texts:
            data = self._archive.text(path)
            self._archive.budget.held.take(2 * len(data))  # the text, and that of its classes
            self._texts[path] = data.decode("latin-1")
        return self._texts[path]

    def calls(self, text: str) -> Iterator[NormCall]:
        """The calls of batch_norm and instance_norm in a text."""
        for match in _CALL.finditer(text):
            words = self.arguments(text, match.end())
            if len(words) == _ARGUMENTS:
                roles = dict(zip(_ROLES, words[1:5], strict=True))
                yield NormCall(match[1], roles, *words[5:8])

    def arguments(self, text: str, start: int, most: int = _ARGUMENTS) -> list[str]:
        """What stands between the commas of a call whose bracket opens before `start`."""
        words, depth, budget = [], 0, self._archive.budget.operations
        for bracket in _BRACKET.finditer(text, start):
            budget.take(1)
            if depth == 0 and bracket[0] != "(" and bracket[0] != "[":
                words.append(text[start : bracket.start()].strip())
                start = bracket.end()
                if bracket[0] != "," or len(words) > most:
                    break
            depth += {"(": 1, "[": 1, ",": 0}.get(bracket[0], -1)
        return words


def _latin(name: str) -> str:
    return name.encode("utf-8", "surrogatepass").decode("latin-1")


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
