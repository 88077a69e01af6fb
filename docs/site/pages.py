"""Pages that the code itself writes: every command with its options, and every rule.

A hook of mkdocs (https://www.mkdocs.org/user-guide/configuration/#hooks).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from bncheck.cli.app import COMMANDS, build_group
from bncheck.cli.help import headed
from bncheck.rules.registry import RULES
from bncheck.rules.rule import AnyRule

#: What the first digits of a code stand for.
FAMILIES = {
    "BN1": "What a file says alone",
    "BN2": "What a model and data say",
    "BN3": "What a series or a record says",
    "BN4": "Folding and exporting",
    "BN5": "What has become worse",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that there are no files for."""
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Paths below docs/, and their Markdown."""
    yield "commands.md", "\n".join(_commands())
    yield "rules/index.md", "\n".join(_index())
    for rule in RULES:
        yield f"rules/{rule.code}.md", "\n".join(_rule(rule))


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "Options, examples and exit codes as `--help` has them.\n"
    for name in COMMANDS:
        group = build_group(name)
        yield from _command(name, group.commands[name])


def _command(name: str, command: Any) -> Iterator[str]:
    context = click.Context(command, info_name=f"bncheck {name}")
    yield f"## bncheck {name}\n"
    yield "\n\n".join(part.replace("\n", " ") for part in (command.help or "").split("\n\n")) + "\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"    bncheck {name} {usage}\n"
    for heading, parameters in headed(command.params):
        records = [found for p in parameters if (found := p.get_help_record(context)) is not None]
        if records:
            yield f"| {heading} | |"
            yield "|---|---|"
            yield from (f"| <code>{_cell(name)}</code> | {_cell(told)} |" for name, told in records)
            yield ""
    yield "Examples:\n"
    yield from (f"    {example}" for example in command.told.examples)
    yield "\nExit codes:\n"
    yield from (f"- `{code}` {meaning}" for code, meaning in command.told.exit_codes)
    yield ""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", html.escape(text, quote=False)).replace("|", "&#124;")


def _index() -> Iterator[str]:
    yield "# Rules\n"
    yield "`bncheck rule CODE` prints these pages; `--select` and `--ignore` take codes, names and "
    yield "families such as `BN2`. E is an error, W a warning, I an info.\n"
    for family, title in FAMILIES.items():
        yield f"## {title}\n"
        yield "| | | | |"
        yield "|---|---|---|---|"
        for rule in RULES:
            if rule.code.startswith(family):
                marks = "/".join(severity.value[0].upper() for severity in rule.severities)
                yield f"| [{rule.code}]({rule.code}.md) | {rule.name} | {marks} | {rule.summary} |"
        yield ""


def _rule(rule: AnyRule) -> Iterator[str]:
    severities = ", ".join(severity.value for severity in rule.severities)
    yield f"# {rule.code} {rule.name} {{ #{rule.code} }}\n"
    yield f"*{severities}*\n"
    for paragraph in rule.explanation.split("\n\n"):
        lines = paragraph.split("\n")
        if all(line.startswith("    ") for line in lines if line):
            yield paragraph + "\n"  # a formula, or a table of its own
        else:
            yield re.sub(r"([*_<>\[\]#|])", r"\\\1", " ".join(lines)) + "\n"
    yield "[All rules](index.md)"
