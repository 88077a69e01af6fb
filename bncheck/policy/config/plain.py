"""The tables that are obviously right, without pydantic, whose import takes longer than a file.

What is in doubt in any way is left to pydantic, which also has the words for what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le

from bncheck.policy.config.settings import kebab

T = TypeVar("T")


class _InDoubtError(Exception):
    """The value is wrong, or of a type that is not known here."""


def plain(kind: type[T], table: object) -> T | None:
    """The dataclass that a table of a TOML file describes; None where pydantic has to decide."""
    try:
        made: T = _made(kind, table)
    except (_InDoubtError, RecursionError, OverflowError):
        return None
    return made


def _made(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return _table(kind, value)
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *limits = get_args(kind)
        return _within(_made(inner, value), limits)
    if origin in (Union, UnionType):
        return _one_of(get_args(kind), value)
    if origin is tuple and isinstance(value, list):
        return tuple(_made(get_args(kind)[0], item) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _made(get_args(kind)[1], item) for key, item in value.items()}
    return _simple(kind, value)


def _simple(kind: Any, value: Any) -> Any:
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (str, bool, int) and type(value) is kind:
        return value
    if kind is Any and _is_json(value):
        return value
    if isinstance(kind, type) and issubclass(kind, Enum) and type(value) is str:
        found = next((member for member in kind if member.value == value), None)
        if found is not None:
            return found
    raise _InDoubtError


def _table(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _InDoubtError
    hints, given = get_type_hints(kind, include_extras=True), dict(value)
    found = {}
    for field in fields(kind):
        key = kebab(field.name)
        if key in given:
            found[field.name] = _made(hints[field.name], given.pop(key))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _InDoubtError
    if given:  # an unknown key
        raise _InDoubtError
    return kind(**found)


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return _made(kind, value)
        except _InDoubtError:
            continue
    raise _InDoubtError


def _within(value: Any, limits: list[Any]) -> Any:
    for limit in limits:
        holds = (
            (isinstance(limit, Ge) and value >= limit.ge)
            or (isinstance(limit, Gt) and value > limit.gt)
            or (isinstance(limit, Le) and value <= limit.le)
        )
        if not holds:
            raise _InDoubtError
    return value


def _is_json(value: Any) -> bool:
    """Whether it is the same in JSON: no date, no NaN."""
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return isinstance(value, (str, bool, int)) or (
        isinstance(value, float) and math.isfinite(value)
    )
