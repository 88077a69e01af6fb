"""TorchScript code that writes into running statistics before it normalises by them.

What the file holds is then not what its module computes with. A name may hold a statistic, or a
view or a list of some, as soon as anything but arithmetic is made of one; a call in place on such a
name writes, and so does a function of the archive that is given one and writes into what it is
given. What a class does in training only (`if training:`) is left to training.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.reading.roles import looks_like_a_statistic
from bncheck.reading.torchscript_code import SETSTATE, Sources
from bncheck.reading.torchscript_statements import Function, Statement, functions_in

_ATTRIBUTE: Final = re.compile(r"(?:\.|\bgetattr\([^\"']*[\"'])(\w+)")
_CONSTANT: Final = re.compile(r"\bCONSTANTS\.c\d")
_WORD: Final = re.compile(r"(?<![.\w])[^\W\d]\w*")
_CALL: Final = re.compile(r"\b(\w+)\(")
_OPERATOR: Final = re.compile(r"\b(?:torch|ops\.\w+)\.(\w+)\(")
_IN_PLACE: Final = re.compile(r"\w*[a-zA-Z0-9]_")
_OUT: Final = re.compile(r"\bout\w* ?= ?([^,)]+)")
#: Arithmetic: its result is neither a view nor a list of what it is given.
_NEW: Final = re.compile(
    r"(?:torch|ops\.\w+)\.(?:\w*(?:batch|instance)_norm\w*|r?sub|add(?:cmul|cdiv)?|mul|div|pow|neg"
    r"|r?sqrt|square|reciprocal|abs|exp|log|clamp\w*|lerp|where|mean|sum|std|var|max|min|all|any"
    r"|is(?:nan|inf|finite)|eq|ne|lt|le|gt|ge|clone|conv\dd|linear|matmul|(?:zeros|ones|empty)_like"
    r"|size|numel|dim|len|format|__is(?:not)?__|dtype|device)\("
)
_PUTS: Final = frozenset(("append", "insert", "extend", "_set_item"))
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
            uses = _uses(source, function, set(), others)
            if uses.writes:
                raise _refusal()
            given |= uses.gives
    if given and given & _writers(source, functions):
        raise _refusal()


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
        uses = _uses(source, function, set(function.parameters), frozenset())
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


def _uses(source: Sources, function: Function, held: set[str], others: Set[str]) -> _Uses:
    """What a function does with values that `held` names, and with statistics."""
    statements = function.in_eval()
    aliases = {s.names[0]: s.value.rpartition(".")[2] for s in statements if s.is_alias}
    follow = _Following(held, others)
    before = -1
    while len(held) > before:
        before = len(held)
        source.budget.operations.take(len(function.text) // 16 + 1)
        for statement in statements:
            follow.through(statement)
    writes, gives = False, set()
    for statement in statements:
        writes = writes or follow.writes(source, statement)
        for match in _CALL.finditer(statement.text):
            name = aliases.get(match[1], match[1])
            if name not in _HANDS_ON and follow.is_in(
                source.arguments(statement.text, match.end())
            ):
                gives.add(name)
    return _Uses(writes, gives)


@dataclass(frozen=True, slots=True)
class _Following:
    """The names in a function that may hold a statistic, or what it was given."""

    held: set[str]
    others: Set[str]

    def is_in(self, texts: list[str]) -> bool:
        """Whether one of some expressions may be, or hold, such a value."""
        return any(
            not _NEW.match(text)
            and (_names_one(text, self.others) or not self.held.isdisjoint(_WORD.findall(text)))
            for text in texts
        )

    def through(self, statement: Statement) -> None:
        """Take in the names that a statement gives such a value."""
        if statement.names and self.is_in([statement.value]):
            self.held.update(statement.names)
        operator = _OPERATOR.search(statement.text)
        if operator and operator[1] in _PUTS and self.is_in([statement.text[operator.end() :]]):
            self.held.update(_WORD.findall(statement.text[operator.end() :].partition(",")[0]))

    def writes(self, source: Sources, statement: Statement) -> bool:
        """Whether a statement writes into such a value, or keeps it under another name."""
        kept = statement.attribute
        if kept is not None and (looks_like_a_statistic(kept) or self.is_in([statement.value])):
            return True
        for match in _OPERATOR.finditer(statement.text):
            words = source.arguments(statement.text, match.end())
            if _IN_PLACE.fullmatch(match[1]) and match[1] not in _PUTS and self.is_in(words[:1]):
                return True
        return self.is_in([match[1] for match in _OUT.finditer(statement.text)])
