"""`--model-arg`: what a model's callable is given, and what it takes."""

from __future__ import annotations

import ast
import inspect
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bncheck.core.errors import BncheckError, quoted
from bncheck.core.extras import need
from bncheck.core.words import shortened

_OPTION: Final = "--model-arg"
#: How a list, a tuple, a dict or a text in quotes begins; what else is no literal is text.
_OPENERS: Final = ("[", "(", "{", "'", '"')
_MISSPELT: Final = {"true": "True", "false": "False", "null": "None"}
_SHOWN: Final = 8
_MOST_BYTES: Final = 16 << 20


class Settings(dict[str, Any]):
    """A table of a configuration file, as `config["depth"]` and as `config.depth`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}") from None


def parse_arguments(arguments: Sequence[str]) -> dict[str, object]:
    """`depth=20 norm=bn` -> {"depth": 20, "norm": "bn"}: Python literals, else text.

    `config=@net.yaml` is the content of a file; `@net.yaml` alone gives each of its keys.
    """
    parsed: dict[str, object] = {}
    for argument in arguments:
        if argument.startswith("@"):
            parsed |= _table(argument[1:])
            continue
        key, equals, value = argument.partition("=")
        if not equals or not key.isidentifier():
            raise BncheckError(
                f"{_OPTION} {argument!r} is not key=value", f"write e.g. {_OPTION} depth=20"
            )
        parsed[key] = _read(value[1:]) if value.startswith("@") else _literal(key, value)
    return parsed


def files_of_arguments(arguments: Sequence[str]) -> Iterator[Path]:
    """The files that arguments name."""
    for argument in arguments:
        _key, _, value = argument.partition("=")
        name = argument if argument.startswith("@") else value
        if name.startswith("@"):
            yield Path(name[1:])


def _literal(key: str, value: str) -> object:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if value.startswith(_OPENERS):
        raise BncheckError(
            f"{_OPTION} {key}={value} is not a Python literal",
            f"check its brackets and quotes: {_OPTION} '{key}=[64, 128]'",
        )
    if (meant := _MISSPELT.get(value)) is not None:
        raise BncheckError(
            f"{_OPTION} {key}={value} would be text",
            f"write {key}={meant}, or {key}=\"'{value}'\" for the text",
        )
    return value


def _table(name: str) -> dict[str, object]:
    found = _read(name)
    if not isinstance(found, Settings):
        raise BncheckError("is not a table of arguments", f"write {_OPTION} KEY=@{name}", name)
    return dict(found)


def _read(name: str) -> object:
    """The content of a .json, .toml or .yaml file. Raises BncheckError."""
    reader = _READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise BncheckError(
            "is not a configuration file that bncheck knows",
            "give .yaml, .json or .toml, or write a function that returns the model",
            name,
        )
    try:
        text = _text(name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BncheckError(f"cannot be read ({reason})", "check the path", name) from None
    try:
        return _as_settings(reader(text), _Room())
    except BncheckError:
        raise
    except Exception as error:  # each library has errors of its own
        reason = shortened(" ".join(str(error).split()), 160)
        raise BncheckError(f"cannot be read ({reason})", "fix it there", name) from None


def _text(name: str) -> str:
    """Of a regular file: a pipe or a device, to which a link may lead, would have no end."""
    status = os.stat(name)
    if not stat.S_ISREG(status.st_mode):
        raise BncheckError("is not a file", "check the path", name)
    if status.st_size > _MOST_BYTES:
        raise BncheckError(f"is larger than {_MOST_BYTES >> 20} MiB", "check the path", name)
    with open(name, encoding="utf-8") as file:
        return file.read()


def _toml(text: str) -> object:
    import tomllib

    return tomllib.loads(text)


def _yaml(text: str) -> object:
    need("yaml")
    import yaml

    return yaml.safe_load(text)


_READERS: Final[Mapping[str, Callable[[str], object]]] = {
    ".json": json.loads, ".toml": _toml, ".yaml": _yaml, ".yml": _yaml,
}  # fmt: skip


@dataclass(slots=True)
class _Room:
    """How many values may come: one that YAML names again and again is there each time."""

    left: int = 1_000_000

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError("more than 1,000,000 values")


def _as_settings(value: object, room: _Room) -> object:
    room.take()
    if isinstance(value, dict):
        return Settings({str(key): _as_settings(item, room) for key, item in value.items()})
    if isinstance(value, list):
        return [_as_settings(item, room) for item in value]
    return value


def check_call(function: Callable[..., object], given: Mapping[str, object], subject: str) -> None:
    """Refuse arguments that the callable does not take, or their lack, before it is called."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # built in
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        raise BncheckError(
            f"{_described(signature)}: {error}", _hint(signature, given, subject), subject
        ) from None


def _described(signature: inspect.Signature) -> str:
    """`takes (depth, width=64)`, the beginning of it where there are many."""
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    words = [shortened(" ".join(str(parameter).split()), 40) for parameter in plain[:_SHOWN]]
    more = ", ..." if len(plain) > _SHOWN else ""
    return f"takes ({', '.join(words)}{more})"


def _hint(signature: inspect.Signature, given: Mapping[str, object], subject: str) -> str:
    option, _, spec = subject.partition(" ")
    target, _, name = spec.rpartition(":")
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [key for key in given if key not in signature.parameters]
    if unknown and not takes_any:
        return f"leave {_OPTION} {quoted(unknown[0])[1:-1]} out, or correct its name"
    lacking = [key for key, p in signature.parameters.items() if _is_needed(p) and key not in given]
    values = ", ".join(f"{key}=..." for key in lacking[:4])
    module = target.removesuffix(".py").replace(os.sep, ".")
    words = " ".join(f"{_OPTION} {key}=..." for key in lacking[:4])
    return (
        f"{f'give {words}, or ' if option == '--model' else ''}write build.py with "
        f"`from {module} import {name}` and `def build(): return {name}({values})`, "
        f"and give {option} build.py:build"
    )


def _is_needed(parameter: inspect.Parameter) -> bool:
    variable = (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return parameter.default is parameter.empty and parameter.kind not in variable
