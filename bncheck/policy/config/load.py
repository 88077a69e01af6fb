"""Read `[tool.bncheck]` and refuse unknown keys."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from bncheck.core.errors import DOCS, BncheckError, quoted
from bncheck.core.findings import FailOn
from bncheck.core.thresholds import DEFAULT
from bncheck.core.words import nearest
from bncheck.policy.config.plain import plain
from bncheck.policy.config.settings import Ignored, Limits, Settings, kebab
from bncheck.policy.config.text import text_of
from bncheck.policy.policy import Policy
from bncheck.rules.choosing import choose_rules

_TABLE = ("tool", "bncheck")
_ADDRESS: Final = re.compile(r"https?://[\w.~:/?#@!$&*+,;=%-]{1,500}", re.ASCII)
#: What pydantic calls an unknown key.
_UNKNOWN: Final = {"unexpected_keyword_argument", "extra_forbidden"}


@dataclass(frozen=True)
class Configuration:
    """Settings and the file that they come from."""

    settings: Settings
    file: Path

    @property
    def policy(self) -> Policy:
        """The policy without its baseline."""
        settings = self.settings
        return Policy(
            settings.select,
            settings.ignored_rules,
            settings.severity,
            settings.exceptions,
            settings.thresholds.over(DEFAULT),
            settings.fail_on or FailOn.ERROR,
            docs_url=self._docs_url(),
        )

    def _docs_url(self) -> str:
        """Reports link to it, so it must be an address and nothing that runs, or steers a log."""
        given = self.settings.docs_url
        if given is not None and not _ADDRESS.fullmatch(given):
            wrong = "is not an address of at most 500 plain characters"
            if not given.startswith(("https://", "http://")):
                wrong = "does not begin with https:// or http://"
            raise self.error(
                ("docs-url",), wrong,
                f'give the address of the documentation, e.g. "{DOCS}"',
            )  # fmt: skip
        return given or DOCS

    @property
    def baseline(self) -> Path | None:
        """The file of known findings."""
        return None if self.settings.baseline is None else self.resolve(self.settings.baseline)

    def resolve(self, path: str) -> Path:
        """A path of the file, which is relative to the file's folder."""
        return self.file.parent / path

    def error(self, path: Sequence[str | int], sentence: str, hint: str) -> BncheckError:
        """What is wrong at this key below [tool.bncheck]."""
        return _error(self.file, text_of(self.file), path, sentence, hint)


def schema() -> dict[str, Any]:
    """The JSON schema of [tool.bncheck], for editors."""
    from pydantic import TypeAdapter

    found: dict[str, Any] = TypeAdapter(Settings).json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def read(file: Path, required: bool) -> Configuration | None:
    """The configuration in this file; None where it has none and need not. Raises BncheckError."""
    text = text_of(file)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of 5000 digits
        raise BncheckError(f"is not valid TOML ({error})", "fix it there", str(file)) from None
    table: Any = data
    for name in _TABLE:
        table = table.get(name) if isinstance(table, dict) else None
    if table is None:
        if required:
            raise BncheckError("has no [tool.bncheck]", "see `bncheck gate --init`", str(file))
        return None
    found = Configuration(_validated(file, text, table), file)
    _check_rules(found)
    _check_limits(found)
    return found


def _validated(file: Path, text: str, table: Any) -> Settings:
    if (settings := plain(Settings, table)) is not None:
        return settings
    from pydantic import TypeAdapter, ValidationError

    try:
        # Through JSON, because only there a list may be a tuple while nothing else is converted.
        document = _as_json(file, table)
        return TypeAdapter(Settings).validate_json(document, strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    problems.sort(key=lambda problem: problem["type"] not in _UNKNOWN)  # often it is the cause
    path = _existing(table, problems[0]["loc"])
    same = [p for p in problems if _existing(table, p["loc"]) == path]
    more = len({_existing(table, p["loc"]) for p in problems}) - 1
    sentence, hint = _described(path, same)
    raise _error(file, text, path, sentence, f"{hint} ({more} more)" if more else hint)


def _as_json(file: Path, table: Any) -> str:
    try:
        return json.dumps(table, default=str)
    except RecursionError:  # a dotted key of 50,000 parts
        raise BncheckError("nests tables too deeply", "fix it there", str(file)) from None


def _existing(table: Any, location: Sequence[str | int]) -> tuple[str | int, ...]:
    """pydantic's location without the names of types that it puts between the keys."""
    path: list[str | int] = []
    value = table
    for step in location:
        if isinstance(value, list) == isinstance(step, int) and _holds(value, step):
            value = value[step]
            path.append(step)
    return tuple(path)


def _holds(value: Any, step: str | int) -> bool:
    return isinstance(value, list) or (isinstance(value, Mapping) and step in value)


def _described(path: tuple[str | int, ...], problems: Sequence[Any]) -> tuple[str, str]:
    kinds = {problem["type"] for problem in problems}
    name = path[-1] if path else "bncheck"
    if "missing" in kinds:
        missing = next(p for p in problems if p["type"] == "missing")["loc"][-1]
        return f"{_table_name(path)} has no {quoted(missing)}", "add it"
    if kinds & _UNKNOWN:
        known = known_keys(path[:-1])
        near = nearest(str(name), known)
        hint = f"did you mean {near}?" if near else f"choose from {', '.join(known)}"
        return f"unknown key {quoted(name)} in {_table_name(path[:-1])}", hint
    wishes = " or ".join(dict.fromkeys(_wish(problem["msg"]) for problem in problems))
    return f"{_full_name(path)} should be {wishes}", "correct it"


_TOML: Final = {
    "a valid array": "a list",
    "an object": "a table",
    "a valid dictionary": "a table",
    "a valid integer": "an integer",
    "a valid ": "a ",
}


def _wish(message: str) -> str:
    """pydantic's sentence without its beginning, in the words of TOML."""
    wish = re.sub(r"^Input should be ", "", message)
    for python, toml in _TOML.items():
        wish = wish.replace(python, toml)
    return wish


def known_keys(path: Sequence[str | int]) -> list[str]:
    """The keys of the table at `path`, by walking the types of the dataclasses."""
    kind: Any = Settings
    for step in path:
        if is_dataclass(kind) and isinstance(kind, type):
            names = {kebab(f.name): f.name for f in fields(kind)}
            kind = get_type_hints(kind)[names[str(step)]]
        else:  # Mapping[str, Model] or tuple[str | Ignored, ...]
            kind = get_args(kind)[isinstance(step, str)]
        if get_origin(kind) in (Union, UnionType):  # Fold | None: the one part that is a table
            kind = next((part for part in get_args(kind) if is_dataclass(part)), kind)
    return [kebab(f.name) for f in fields(kind)] if is_dataclass(kind) else []


def _full_name(path: Sequence[str | int]) -> str:
    return _dotted(path) or "tool.bncheck"


def _table_name(path: Sequence[str | int]) -> str:
    return f"[{_dotted((*_TABLE, *path))}]"


def _dotted(path: Sequence[str | int]) -> str:
    """The keys as TOML writes them, each cut where it is longer than keys are."""
    return ".".join(quoted(step)[1:-1] for step in path if isinstance(step, str))


def _check_rules(found: Configuration) -> None:
    """Every word that should name a rule does."""
    settings = found.settings
    words: list[tuple[tuple[str | int, ...], str]] = []
    words += [(("select", i), word) for i, word in enumerate(settings.select)]
    for i, entry in enumerate(settings.ignore):
        words.append(
            (("ignore", i, "rule"), entry.rule)
            if isinstance(entry, Ignored)
            else (("ignore", i), entry)
        )
    words += [(("severity", word), word) for word in settings.severity]
    for path, word in words:
        try:
            choose_rules([word], ())
        except BncheckError as error:
            raise found.error(path, error.sentence, error.hint) from None


def _check_limits(found: Configuration) -> None:
    """No warning that is asked for begins where a finding is an error already."""
    settings = found.settings
    whole = settings.thresholds
    tables: dict[tuple[str, ...], Limits] = {("thresholds",): whole}
    tables |= {("models", name, "inspect"): m.inspect for name, m in settings.models.items()}
    for path, limits in tables.items():
        warning, error = limits.w2_warning, limits.w2_error or whole.w2_error
        if warning is not None and error is not None and warning > error:
            raise found.error(
                (*path, "w2-warning"),
                f"w2-warning is {warning:g}, above w2-error, which is {error:g}",
                "make it smaller, or w2-error larger",
            )


def _error(
    file: Path, text: str, path: Sequence[str | int], sentence: str, hint: str
) -> BncheckError:
    from bncheck.policy.config.lines import line_of

    line = line_of(text, (*_TABLE, *path))
    return BncheckError(sentence, hint, f"{file}:{line}" if line else str(file))
