"""A report where it is the value of an expression: three lines, or in a notebook its page."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Final

from bncheck.core.extras import is_installed
from bncheck.core.report import Report
from bncheck.reporting.document import Document, Pages, severity_counts
from bncheck.reporting.figures import Figure
from bncheck.reporting.inline import STILL
from bncheck.reporting.visible import layer_name, visible_line

#: Characters of a line.
_LONGEST: Final = 100
#: What a page may do within a notebook: show itself, and open the documentation.
_FRAME: Final = (
    '<iframe sandbox="allow-popups" title="bncheck" style="width: 100%; height: 32rem; border: 0; '
    'resize: vertical" srcdoc="{}"></iframe>'
)


def lines(report: Report) -> str:
    """Its subject with the verdict, the first thing that is said, and what to look at."""
    pages = _pages(report)
    documents = pages.documents
    subjects = ", ".join(dict.fromkeys(document.title for document in documents)) or "nothing"
    verdicts = Counter(document.verdict for document in documents)
    verdict = ", ".join(
        f"{n} {word}" if len(documents) > 1 else word for word, n in verdicts.items()
    )
    facts = [fact for document in documents for fact in document.facts]
    first = f"{facts[0].name}: {facts[0].text}".removeprefix(": ") if facts else pages.last
    said = (
        f"{type(report).__name__} of {subjects}: {verdict}",
        f"  {first}",
        f"  {_found(documents)}",
    )
    return "\n".join(map(_fitted, said))


def fragment(report: Report) -> str | None:
    """The page in a frame of its own, so that neither its style nor a name in it reaches the
    notebook; no script runs in it, and what plotly would draw is left to the tables.

    None where jinja2 is not installed: the notebook then shows the three lines.
    """
    if not is_installed("jinja2"):
        return None
    from bncheck.reporting.html import render

    pages = _pages(report)
    documents = tuple(replace(d, figures=tuple(_still(d))) for d in pages.documents)
    page = render(replace(pages, documents=documents))
    page = page.replace("<head>", '<head>\n<base target="_blank">', 1)
    return _FRAME.format(html.escape(page))


def _still(document: Document) -> Iterator[Figure]:
    return (figure for figure in document.figures if isinstance(figure, STILL))


def _pages(report: Report) -> Pages:
    """What the command itself would show, about a model in memory where there is no file."""
    module = import_module(f"bncheck.reporting.documents.{report.command}")
    if hasattr(module, "pages"):
        pages: Pages = module.pages(report)
        return pages
    return Pages((module.document(report, str(getattr(report, "path", None) or "the model")),))


def _found(documents: Sequence[Document]) -> str:
    findings = sorted((f for d in documents for f in d.findings), key=lambda f: f.severity.rank)
    if not findings:
        return "nothing found"
    worst = findings[0]
    where = f"{worst.rule} {worst.name}, {layer_name(worst.layer)}: {worst.message}"
    return f"{severity_counts(findings)}: {where}"


def _fitted(line: str) -> str:
    line = visible_line(line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
