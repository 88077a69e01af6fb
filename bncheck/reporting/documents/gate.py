"""`bncheck gate`: a chapter for each model, with the documents of its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from bncheck.core.findings import Severity
from bncheck.core.words import count
from bncheck.gate.report import UNCHECKED, CheckResult, GateReport, ModelResult
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
    documents = tuple(replace(_document(result), model=model.name) for result in model.results)
    return Chapter(model.name, model.status, _STANDINGS[model.status], documents, model.errors)


def _document(result: CheckResult) -> Document:
    """Of the command whose name the check has. A fold of the gate's is thrown away."""
    module = import_module(f"bncheck.reporting.documents.{result.check}")
    document: Callable[..., Document] = module.document
    more: dict[str, Any] = {"thrown_away": True} if result.check == "fold" else {}
    return document(result.report, result.path, **more)
