"""TorchScript code that writes into running statistics before it normalises by them.

What the file holds is then not what its module computes with. A name may hold a statistic, or a
view or a list of some, as soon as anything but arithmetic is made of one; a call in place on such a
name writes, and so does a function of the archive that is given one and writes into what it is
given. What a class does in training only (`if training:`) is left to training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.roles import looks_like_a_statistic
from bncheck.reading.torchscript_code import SETSTATE, Sources
from bncheck.reading.torchscript_statements import Function, Statement, functions_in

_ATTRIBUTE: Final = re.compile(r"(?:\.|\bgetattr\([^\"']{0,200}[\"'])(\w+)")
_CONSTANT: Final = re.compile(r"\bCONSTANTS\.c\d")
_WORD: Final = re.compile(r"(?<![.\w])[^\W\d]\w*")
_CALL: Final = re.compile(r"\b(\w+)\(")
_OPERATOR: Final = re.compile(r"\b(?:torch|ops\.\w+)\.(\w+)\(")
_IN_PLACE: Final = re.compile(r"\w*[a-zA-Z0-9]_")
#: Operators in place that give back their first operand.
_FIRST_BACK: Final = re.compile(r"(?:torch|ops\.aten)\.(?!set_\()\w*[a-zA-Z0-9]_\(")
_OUT: Final = re.compile(r"\bout\w* ?= ?([^,)]+)")
#: Arithmetic: its result is neither a view nor a list of what it is given.
_NEW: Final = re.compile(
    r"(?:torch|ops\.\w+)\.(?:\w*(?:batch|instance)_norm\w*|r?sub|add(?:cmul|cdiv)?|mul|div|pow|neg"
    r"|r?sqrt|square|reciprocal|abs|exp|log|clamp\w*|lerp|where|mean|sum|std|var|max|min|all|any"
    r"|is(?:nan|inf|finite)|eq|ne|lt|le|gt|ge|clone|conv\dd|_convolution|linear|matmul|gru|lstm"
    r"|rnn_(?:tanh|relu)|(?:zeros|ones|empty)_like"
    r"|size|numel|dim|len|format|__is(?:not)?__|dtype|device)\("
)
_PUTS: Final = frozenset(("append", "insert", "extend", "_set_item", "set_", "set_data"))
_ALL: Final = 1 << 30
_WORD_BYTES: Final = 16
#: Letters that are gone through in the time of an operation.
_LETTERS: Final = 8
#: Of torch's own functions, those that hand statistics on to the operators, which keep them.
_HANDS_ON: Final = frozenset(("batch_norm", "instance_norm"))


@dataclass(frozen=True, slots=True)
class _Uses:
    """What a function does with some values: whether it writes into one, whom it gives one."""

    writes: bool
    gives: Set[str]


def refuse_written(source: Sources, others: Set[str]) -> None:
    """Raise BncheckError where code that runs in eval mode writes into a running statistic.

    Args:
        source: the code of the archive.
        others: further attributes that share a storage with a statistic.
    """
    functions = [one for text in source.files().values() for one in functions_in(text)]
    given: set[str] = set()
    for function in functions:
        if function.name != SETSTATE and _names_one(function.text, others):
            uses = _uses(source, function, frozenset(), others)
            if uses.writes:
                raise _refusal()
            given |= uses.gives
    if given and given & _writers(source, functions):
        raise _refusal()


def only_norms_normalise(source: Sources) -> bool:
    """Whether no code but that of classes called norms, and torch's, speaks of statistics."""
    functions = (one for text in source.files().values() for one in functions_in(text))
    return not any(
        "batch_norm" in one.text or _names_one(one.text, frozenset())
        for one in functions
        if not is_norm_class(one.owner) and one.name not in _HANDS_ON
    )


def _refusal() -> BncheckError:
    return BncheckError(
        "has code that writes into running statistics when it is run",
        "export the model with torch.export, or save its state dict",
    )


def _names_one(text: str, others: Set[str]) -> bool:
    """Whether a text names an attribute that is a statistic, or a constant that may be one."""
    return bool(_CONSTANT.search(text)) or any(
        looks_like_a_statistic(match[1]) or match[1] in others
        for match in _ATTRIBUTE.finditer(text)
    )


def _writers(source: Sources, functions: list[Function]) -> Set[str]:
    """The names of functions that write into what they are given, or give it to such a one."""
    given_by: dict[str, set[str]] = {}
    left: list[str] = []
    for function in functions:
        uses = _uses(source, function, {*function.parameters}, frozenset())
        if uses.writes:
            left += (
                [function.name, function.owner] if function.name == "__init__" else [function.name]
            )
        for name in uses.gives:
            given_by.setdefault(name, set()).add(function.name)
    writers: set[str] = set()
    while left:
        name = left.pop()
        if name not in writers:
            writers.add(name)
            left += given_by.get(name, ())
    return writers


def _uses(source: Sources, function: Function, given: Set[str], others: Set[str]) -> _Uses:
    """What a function does with what it was given under some names, and with statistics."""
    statements = function.in_eval(source.budget)
    aliases = {s.names[0]: s.value.rpartition(".")[2] for s in statements if s.is_alias}
    follow = _Following(source, _holding(source, statements, given, others), others)
    writes, gives = False, set[str]()
    for statement in statements:
        writes = writes or follow.writes(statement)
        for match in _CALL.finditer(statement.text):
            name = aliases.get(match[1], match[1])
            if name in _HANDS_ON or name in gives:
                continue
            if follow.is_in(source.arguments(statement.text, match.end(), _ALL)):
                gives.add(name)
    return _Uses(writes, gives)


def _holding(
    source: Sources, statements: list[Statement], given: Set[str], others: Set[str]
) -> Set[str]:
    """The names that may hold such a value, a view of it or a list with it."""
    made_of: dict[str, list[tuple[str, ...]]] = {}
    left = [tuple(given)]
    for names, whole in (flow for statement in statements for flow in _flows(statement)):
        value = _given_back(source, whole)
        if _NEW.match(value):
            continue
        if _names_one(value, others):
            left.append(names)
        words = _WORD.findall(value)
        source.budget.operations.take(len(words) + 1)
        source.budget.held.take(_WORD_BYTES * len(words))
        for word in words:
            made_of.setdefault(word, []).append(names)
    held: set[str] = set()
    while left:
        for name in left.pop():
            if name not in held:
                held.add(name)
                left += made_of.get(name, ())
    return held


def _given_back(source: Sources, text: str) -> str:
    """The expression that calls in place write into and give back: y of add_(mul_(y, 2), x)."""
    while match := _FIRST_BACK.match(text):
        source.budget.operations.take(1 + len(text) // _LETTERS)
        words = source.arguments(text, match.end(), _ALL)
        call = f"{match[0]}{','.join(words)})"
        if not words or "=" in words[0] or "".join(call.split()) != "".join(text.split()):
            break
        text = words[0]
    return text


def _flows(statement: Statement) -> Iterator[tuple[tuple[str, ...], str]]:
    """The names that a statement makes something of a value, or puts one in."""
    if statement.names:
        yield statement.names, statement.value
    operator = _OPERATOR.search(statement.text)
    if operator and operator[1] in _PUTS:
        first, _, rest = statement.text[operator.end() :].partition(",")
        yield tuple(_WORD.findall(first)), rest


@dataclass(frozen=True, slots=True)
class _Following:
    """The names in a function that may hold a statistic, or what it was given."""

    source: Sources
    held: Set[str]
    others: Set[str]

    def is_in(self, texts: list[str]) -> bool:
        """Whether one of some expressions may be, or hold, such a value."""
        self.source.budget.operations.take(sum(map(len, texts)) // _LETTERS)
        return any(
            not _NEW.match(text)
            and (_names_one(text, self.others) or not self.held.isdisjoint(_WORD.findall(text)))
            for text in (_given_back(self.source, text) for text in texts)
        )

    def writes(self, statement: Statement) -> bool:
        """Whether a statement writes into such a value, or keeps it under another name."""
        kept = statement.attribute
        if kept is not None and (looks_like_a_statistic(kept) or self.is_in([statement.value])):
            return True
        for match in _OPERATOR.finditer(statement.text):
            if _IN_PLACE.fullmatch(match[1]):
                words = self.source.arguments(statement.text, match.end(), 0)
                if self.is_in(words[:1]):
                    return True
        called = statement.value or statement.text  # `output = y` is not an argument
        return self.is_in([match[1] for match in _OUT.finditer(called)])
