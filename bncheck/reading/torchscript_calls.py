"""Calls in TorchScript code that normalise by what is not called like a statistic.

A class may hand any buffer to `torch.batch_norm`, or one that it computes. Layers are found by
their names, so such a call would be skipped, and what is skipped is not healthy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.reading.roles import STATISTICS, looks_like_a_statistic
from bncheck.reading.torchscript_code import Sources

_FUNCTION: Final = re.compile(r"^ *def (\w+)\(", re.MULTILINE)
_DIRECT: Final = re.compile(r"\b(?:torch|ops\.\w+)\.\w*(?:batch_norm|instance_norm)\w*\(")
_FUNCTIONAL: Final = r"__torch__\.torch\.nn\.functional\.(?:___torch_mangle_\d+\.)?"
_ALIAS: Final = re.compile(rf"^ *(\w+) = {_FUNCTIONAL}(?:batch_norm|instance_norm)$", re.MULTILINE)
_CALLED: Final = re.compile(r"\b(\w+)\(")
#: The functions that hand their parameters on: their callers are looked at instead.
_HANDS_ON: Final = frozenset(("batch_norm", "instance_norm"))
_IN_TORCH: Final = re.compile(r"code/__torch__/torch/nn/functional(?:/___torch_mangle_\d+)?\.py")
_ASSIGNED: Final = re.compile(r"^ *(\w+)(?: : [^=\n]{1,99})? = (\S.{0,199})$", re.MULTILINE)
_ATTRIBUTE: Final = re.compile(r"(?:\(?\w+\)?\.)+(\w+)")
_CAST: Final = re.compile(r"(?:unchecked_cast|annotate)\([^()]{1,99}, (\w+)\)")
_ASSIGNED_BYTES: Final = 250
_PARAMETER: Final = re.compile(r"(\w+): ")
_ROLES: Final = ("running_mean", "running_var")


def refuse_unfollowed(source: Sources) -> None:
    """Raise BncheckError where code normalises by what is not called like a statistic."""
    for path, text in source.files().items():
        for name, start, end in _functions(text):
            if _DIRECT.search(text, start, end) is None and not _ALIAS.search(text, start, end):
                continue
            _check(
                source,
                text[start:end],
                hands_on=name in _HANDS_ON and bool(_IN_TORCH.fullmatch(path)),
            )


def _functions(text: str) -> Iterator[tuple[str, int, int]]:
    name, start = "", 0
    for match in _FUNCTION.finditer(text):
        yield name, start, match.start()
        name, start = match[1], match.start()
    yield name, start, len(text)


def _check(source: Sources, code: str, hands_on: bool) -> None:
    values = _assignments(source, code)
    head = code[: code.find(":\n")] if hands_on else ""
    # torch's own take (input, running_mean, running_var, ...).
    parameters = [*_PARAMETER.findall(head)[1:3], "", ""]
    for place, start in _calls(code):
        words = source.arguments(code, start)[place : place + 2]
        passed = [
            _followed(source, word, role, values) or (word == handed and word not in values)
            for word, role, handed in zip(words, _ROLES, parameters, strict=False)
        ]
        if len(passed) < 2 or not all(passed):
            raise BncheckError(
                "has code that normalises by what is not called like running statistics",
                "export the model with torch.export, or save its state dict",
            )


def _calls(code: str) -> Iterator[tuple[int, int]]:
    """Where mean and variance stand among the arguments of a call, and where those begin."""
    for match in _DIRECT.finditer(code):
        yield 3, match.end()
    aliases = {match[1] for match in _ALIAS.finditer(code)}
    for match in _CALLED.finditer(code) if aliases else ():
        if match[1] in aliases:
            yield 1, match.end()


def _assignments(source: Sources, code: str) -> dict[str, list[str]]:
    """What is assigned to each name of a function."""
    values: dict[str, list[str]] = {}
    for match in _ASSIGNED.finditer(code):
        source.budget.held.take(_ASSIGNED_BYTES)
        values.setdefault(match[1], []).append(match[2])
    return values


def _followed(source: Sources, word: str, role: str, values: dict[str, list[str]]) -> bool:
    """Whether a word is None, a constant, or leads to attributes that are called as the role is."""
    seen, left = {word}, [word]
    while left:
        source.budget.operations.take(1)
        word = left.pop()
        if word == "None" or word.startswith("CONSTANTS."):
            continue
        if attribute := _ATTRIBUTE.fullmatch(word):
            own = attribute[1]
            if not looks_like_a_statistic(own) or STATISTICS.get(own, role) != role:
                return False
            continue
        cast = _CAST.fullmatch(word)
        given = values.get(cast[1] if cast else word)
        if not given:
            return False
        left += [value for value in given if value not in seen]
        seen.update(given)
    return True
