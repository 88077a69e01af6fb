"""The source code in a TorchScript archive, as text: classes, and calls of batch_norm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Final

from bncheck.reading.pickle_values import Global, Value
from bncheck.reading.zip_archive import ZipArchive

_CLASS: Final = re.compile(r"^class ([^\s(:]+)[(:]", re.MULTILINE)
_FINAL: Final = re.compile(r"^  (\w+) : Final\[\w+\] = (\S{1,99})$", re.MULTILINE)
_CALL: Final = re.compile(r"torch\.(?:batch_norm|instance_norm)\(")
_NORM: Final = re.compile(r"batch_norm|instance_norm|\b_*(?:running|moving|population)_")
_WORDS: Final = ("batch_norm", "instance_norm", "running_", "moving_", "population_")
_STORED: Final = re.compile(r"\.(\w+) = ")
_CALLED: Final = re.compile(r"\.(\w+)\(")
_FILE: Final = re.compile(r"code/.*\.py")
#: Torch's own functions are judged where they are called.
_TORCH_S: Final = re.compile(r"code/__torch__/torch/nn/functional(?:/___torch_mangle_\d+)?\.py")
_BRACKET: Final = re.compile(r"[()\[\],]")
# torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)
# and torch.instance_norm(..., use_input_stats, momentum, eps, cudnn).
_ARGUMENTS: Final = 9
SETSTATE: Final = "__setstate__"
_SETSTATE_S: Final = re.compile(
    r"^  def __setstate__\([\s\S]*?(?=^  def |^class |^def |\Z)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class NormCall:
    """A call of batch_norm or instance_norm, its arguments as they are written."""

    mean: str
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
        self._speaking: Set[Global | str] | None = None
        self._names: dict[re.Pattern[str], Set[str]] = {}

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
            self._layers[kind] = LayerCode(constants, next(self._calls(body), None), fixed)
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
            self._speaks[kind] = _speaks(self.body(kind))
        return self._speaks[kind]

    def file(self, path: str) -> str:
        """A file's text, or "" where the archive does not hold it."""
        return self._text(path) if path in self._archive else ""

    def says(self, word: str) -> bool:
        """Whether a word stands anywhere in the code."""
        return any(word in self._text(path) for path in self._paths())

    def assigns(self, attribute: str) -> bool:
        """Whether some code stores something in an attribute of that name."""
        return attribute in self._named(_STORED)

    def calls_method(self, name: str) -> bool:
        """Whether some code calls a method of that name."""
        return name in self._named(_CALLED)

    def speaking(self) -> Set[Global | str]:
        """The classes that speak of norms or statistics, and files that do so beside classes."""
        if self._speaking is None:
            self._speaking = {place for path in self._paths() for place in self._speaking_in(path)}
        return self._speaking

    def _speaking_in(self, path: str) -> Iterator[Global | str]:
        text = self._text(path)
        module = path.removeprefix("code/").removesuffix(".py").replace("/", ".")
        if not _speaks(text):
            return
        spoken = [name for name, body in _split(text).items() if _speaks(body)]
        yield from (Global(module, name) for name in spoken)
        if not spoken and not _TORCH_S.fullmatch(path):
            yield path

    def _paths(self) -> list[str]:
        return [name for name in self._archive.names if _FILE.fullmatch(name)]

    def _named(self, pattern: re.Pattern[str]) -> Set[str]:
        if pattern not in self._names:
            texts = (_SETSTATE_S.sub("", self._text(path)) for path in self._paths())
            self._names[pattern] = {m[1] for text in texts for m in pattern.finditer(text)}
        return self._names[pattern]

    def _text(self, path: str) -> str:
        if path not in self._texts:
            data = self._archive.text(path)
            self._archive.budget.held.take(2 * len(data))  # the text, and that of its classes
            self._texts[path] = data.decode("latin-1")
        return self._texts[path]

    def _calls(self, text: str) -> Iterator[NormCall]:
        """The calls of batch_norm and instance_norm in a text."""
        for match in _CALL.finditer(text):
            words = self._arguments(text, match.end())
            if len(words) == _ARGUMENTS:
                yield NormCall(words[3], *words[5:8])

    def _arguments(self, text: str, start: int) -> list[str]:
        """What stands between the commas of a call whose bracket opens before `start`."""
        words, depth, budget = [], 0, self._archive.budget.operations
        for bracket in _BRACKET.finditer(text, start):
            budget.take(1)
            if depth == 0 and bracket[0] != "(" and bracket[0] != "[":
                words.append(text[start : bracket.start()].strip())
                start = bracket.end()
                if bracket[0] != "," or len(words) > _ARGUMENTS:
                    break
            depth += {"(": 1, "[": 1, ",": 0}.get(bracket[0], -1)
        return words


def _speaks(text: str) -> bool:
    """Whether a text names a norm or a statistic: the words are found faster than the pattern."""
    return any(word in text for word in _WORDS) and bool(_NORM.search(text))


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
