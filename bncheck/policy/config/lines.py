"""Which line of a TOML file a key is on: tomllib does not say."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

#: A value of many lines is parsed again with each; a line number is not worth more than a second.
_MOST_LETTERS: Final = 2_000_000

Path: TypeAlias = "tuple[str | int, ...]"


def line_of(text: str, path: Path) -> int | None:
    """The line of the key at `path` in a valid TOML text, or of the nearest table around it."""
    lines = dict(reversed(list(_keys(text))))
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def _keys(text: str) -> Iterator[tuple[Path, int]]:
    """Every key with its line. A value inside a statement is on the statement's line."""
    table: Path = ()
    arrays: dict[Path, int] = {}
    for number, data, is_header in _statements(text):
        if not is_header:
            for path in _paths(data):
                yield (*table, *path), number
            continue
        table = ()
        for step in max(_paths(data), key=len):
            if isinstance(step, str):
                table = (*table, step)
                # Below an array of tables a header means the array's last.
                if table in arrays and not _is_array(data, table):
                    table = (*table, arrays[table])
            else:
                arrays[table] = arrays.get(table, -1) + 1
                table = (*table, arrays[table])
        yield table, number


def _statements(text: str) -> Iterator[tuple[int, dict[str, Any], bool]]:
    """A TOML text is headers and `key = value`: each is the fewest lines that parse alone."""
    start, collected, work = 1, "", 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        start = start if collected else number
        collected += line
        work += len(collected)
        if work > _MOST_LETTERS:
            return
        try:
            data = tomllib.loads(collected)
        except tomllib.TOMLDecodeError:
            continue
        if data:
            yield start, data, collected.lstrip().startswith("[")
        collected = ""


def _paths(data: Any, path: Path = ()) -> Iterator[Path]:
    items = data.items() if isinstance(data, Mapping) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (Mapping, list)):
            yield from _paths(value, (*path, key))


def _is_array(data: Mapping[str, Any], table: Path) -> bool:
    """Whether this header itself is `[[table]]`."""
    value: Any = data
    for step in table:
        value = value[0] if isinstance(step, int) else value.get(step)
        if value is None:
            return False
    return isinstance(value, list)
