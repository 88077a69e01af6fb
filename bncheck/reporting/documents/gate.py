"""`bncheck gate`: a chapter for each model, with the documents of its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from bncheck.core.findings import Severity
from bncheck.core.words import count
from bncheck.gate.report import UNCHECKED, GateReport, ModelResult, Outcome
from bncheck.reporting.document import Chapter, Document, Pages

_STANDINGS = {
    "healthy": None,
    "suspect": Severity.WARNING,
    "broken": Severity.ERROR,
    UNCHECKED: Severity.ERROR,
}


def pages(report: GateReport) -> Pages:
    """All models, and a last line that sums up."""
    chapters = tuple(_chapter(model) for model in report.models)
    documents = tuple(document for chapter in chapters for document in chapter.documents)
    counts = ", ".join(f"{number} {status}" for number, status in report.counts())
    last = f"{count(len(report.models), 'model')}: {counts}"
    return Pages(documents, report.errors, last, chapters)


def _chapter(model: ModelResult) -> Chapter:
    documents = tuple(replace(_document(outcome), model=model.name) for outcome in model.outcomes)
    return Chapter(model.name, model.status, _STANDINGS[model.status], documents, model.errors)


def _document(outcome: Outcome) -> Document:
    """Of the command whose name the check has. A fold of the gate's is thrown away."""
    module = import_module(f"bncheck.reporting.documents.{outcome.check}")
    document: Callable[..., Document] = module.document
    more: dict[str, Any] = {"thrown_away": True} if outcome.check == "fold" else {}
    return document(outcome.report, outcome.path, **more)
