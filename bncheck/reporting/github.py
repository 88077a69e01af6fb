"""Annotations on a pull request: GitHub's workflow commands, one a line.

https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity
from bncheck.reporting.document import Document, Pages
from bncheck.reporting.places import file_and_line, full_text, repository_path
from bncheck.reporting.visible import visible

#: GitHub shows this many errors and this many warnings per step, and silently drops the rest.
_SHOWN: Final = 10


@dataclass(frozen=True)
class Annotation:
    """One command; `file` is empty where it concerns none."""

    level: str
    title: str
    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        places = f"file={_property(repository_path(self.file))}," if self.file else ""
        places += f"line={self.line}," if self.line else ""
        return f"::{self.level} {places}title={_property(self.title)}::{_data(self.message)}"


def render(pages: Pages) -> str:
    """The annotations, worst first, and a line for each document that no runner obeys."""
    documents = pages.documents
    found = [_of_error(error) for error in pages.errors] + _of_findings(pages)
    found += [annotation for document in documents for annotation in _of_facts(document)]
    lines: list[str] = []
    for level in ("error", "warning"):
        lines += _capped([annotation for annotation in found if annotation.level == level], level)
    lines += [f"{d.command} {visible(d.title, None)}: {d.verdict}" for d in documents]
    return "".join(f"{line}\n" for line in lines)


def _capped(annotations: Sequence[Annotation], level: str) -> list[str]:
    """As many as GitHub shows; the last says how many are left out."""
    if len(annotations) <= _SHOWN:
        return [str(annotation) for annotation in annotations]
    shown = [str(annotation) for annotation in annotations[: _SHOWN - 1]]
    more = f"+{len(annotations) - len(shown)} more {level}s; the job's report has them all"
    return [*shown, str(Annotation(level, "bncheck", more))]


def _of_error(error: BncheckError) -> Annotation:
    path, line = file_and_line(error.subject)
    file = path if os.path.isfile(path) else ""
    return Annotation("error", "bncheck failed", visible(str(error), None), file, line)


def _of_findings(pages: Pages) -> list[Annotation]:
    return [
        Annotation(
            finding.severity.value,
            f"{finding.rule} {finding.name}",
            full_text(finding, pages.page_of(finding.rule)),
            document.file,
        )
        for document in pages.documents
        for finding in document.findings
        if finding.severity is not Severity.INFO
    ]


def _of_facts(document: Document) -> list[Annotation]:
    """What is bad about a file although its verdict is good: another part of it is broken."""
    bad = [fact for fact in document.facts if fact.tone and document.standing is None]
    return [
        Annotation("warning", "bncheck", visible(fact.text, None), document.file) for fact in bad
    ]


def _data(text: str) -> str:
    """The runner's own escapes. A command must not begin inside of another, either."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(visible(text, None)).replace(":", "%3A").replace(",", "%2C")
