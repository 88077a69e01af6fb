"""The code of a TorchScript archive as functions and statements, parsed no further than lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bncheck.core.budget import Budget

_HEAD: Final = re.compile(r"^([ \t]*)(?:def (\w+)\(|class (\w+)\b)", re.MULTILINE)
#: Texts and comments, which hold no code; brackets and joined lines; the ends of lines.
_PIECE: Final = re.compile(
    r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    r"|#[^\n]*|\\\r?\n|[(\[{]|[)\]}]|\n"
)
_PARAMETER: Final = re.compile(r"(?<=[(,\s])(\w+) ?:")
_ASSIGNED: Final = re.compile(r"\(?([\w, ]++)\)?(?:: [^=]{1,300})?(?<= )= (?!=)")
_LOOP: Final = re.compile(r"for ([\w, ]+) in ")
_STORED: Final = re.compile(r"[^=\s][^=]*\.(\w+) = (?!=)")
_IF: Final = re.compile(r"if (?:[\w.()]+\.)?(\w+):")
_DOTTED: Final = re.compile(r"__torch__[\w.]+")
_ROUNDS: Final = 4
#: What a statement takes, beside its text and its value.
_STATEMENT_BYTES: Final = 400
_STEPS: Final = 8


@dataclass(frozen=True, slots=True)
class Statement:
    """A line of code with what it assigns: to names, or to an attribute of something."""

    indent: str
    text: str
    names: tuple[str, ...] = ()
    value: str = ""
    attribute: str | None = None

    @property
    def is_alias(self) -> bool:
        """Whether it gives a function of the archive a shorter name."""
        return len(self.names) == 1 and bool(_DOTTED.fullmatch(self.value))


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the archive, with the functions within it; the class it is in, or ""."""

    name: str
    owner: str
    text: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters but for the module's own."""
        head = next(iter(_lines(self.text)), ("", ""))[1]
        return tuple(_PARAMETER.findall(head))[1 if self.owner else 0 :]

    def in_eval(self, budget: Budget) -> list[Statement]:
        """Its statements, less those that it runs only where a module is in training."""
        statements = []
        for indent, text in _lines(self.text):
            budget.operations.take(_STEPS)
            budget.held.take(_STATEMENT_BYTES + 2 * len(text))
            statements.append(_statement(indent, text))
        modes = {name for statement in statements for name in statement.names}
        for _ in range(_ROUNDS):
            kept = _outside_of(statements, modes)
            wrong = {
                name for s in kept for name in s.names if not s.value.endswith(".training")
                and s.value != "False"
            }  # fmt: skip
            if modes.isdisjoint(wrong):
                return kept
            modes -= wrong
        return statements


def functions_in(text: str) -> Iterator[Function]:
    """The functions of a file. One that stands deeper than another belongs to it."""
    owner, name, indent, start = "", "", 0, 0
    for match in _HEAD.finditer(text):
        if match[2] and name and len(match[1]) > indent:
            continue
        if name:
            yield Function(name, owner, text[start : match.start()])
        name, indent, start = match[2] or "", len(match[1]), match.start()
        owner = match[3] or (owner if indent else "")
    if name:
        yield Function(name, owner, text[start:])


def _outside_of(statements: list[Statement], modes: set[str]) -> list[Statement]:
    """The statements that are not in the block of an `if` of one of some names."""
    kept: list[Statement] = []
    within: str | None = None
    for statement in statements:
        if within is not None and len(statement.indent) > len(within):
            continue
        within = None
        found = _IF.fullmatch(statement.text)
        if found and (found[1] in modes or statement.text.endswith(").training:")):
            within = statement.indent
        kept.append(statement)
    return kept


def _statement(indent: str, text: str) -> Statement:
    if found := _ASSIGNED.match(text):
        names = tuple(re.findall(r"\w+", found[1]))
        return Statement(indent, text, names, text[found.end() :].strip())
    if found := _LOOP.match(text):
        return Statement(indent, text, tuple(re.findall(r"\w+", found[1])), text[found.end() :])
    if found := _STORED.match(text):
        return Statement(indent, text, (), text[found.end() :].strip(), found[1])
    return Statement(indent, text)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """The lines with their indentation, joined where a bracket is open, without long texts."""
    parts: list[str] = []
    depth, start = 0, 0
    for match in _PIECE.finditer(text):
        piece = match[0]
        parts.append(text[start : match.start()])
        start = match.end()
        if piece == "\n" and depth <= 0:
            line = "".join(parts)
            parts = []
            if line.strip():
                yield line[: len(line) - len(line.lstrip())], line.strip()
        elif len(piece) == 1:
            depth += {"\n": 0}.get(piece, 1 if piece in "([{" else -1)
            parts.append(" " if piece == "\n" else piece)
        elif piece[0] in "\"'":
            parts.append(piece if re.fullmatch(r"[\"']\w{0,60}[\"']", piece) else '""')
    line = "".join([*parts, text[start:]])
    if line.strip():
        yield line[: len(line) - len(line.lstrip())], line.strip()
