"""`bncheck gate`: a chapter for each model, with the documents of its checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from bncheck.core.findings import Severity, Verdict
from bncheck.core.words import count
from bncheck.gate.report import UNCHECKED, CheckResult, GateReport, ModelResult
from bncheck.inspecting.report import InspectReport
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
    ranked = sorted(report.models, key=lambda model: list(_STANDINGS).index(model.status))
    words = Counter(_word(model) for model in ranked)
    counts = ", ".join(f"{number} {word}" for word, number in words.items())
    last = f"{count(len(report.models), 'model')}: {counts}"
    return Pages(documents, report.errors, last, chapters)


def _chapter(model: ModelResult) -> Chapter:
    documents = tuple(replace(_document(result), model=model.name) for result in model.results)
    return Chapter(model.name, _word(model), _STANDINGS[model.status], documents, model.errors)


def _word(model: ModelResult) -> str:
    """The status for people: that of a healthy model is what its reports say of it."""
    words = {r.report.word for r in model.results if isinstance(r.report, InspectReport)}
    if model.status != Verdict.HEALTHY:
        return model.status
    return next((word for word in ("known", "no fault found") if word in words), model.status)


def _document(result: CheckResult) -> Document:
    """Of the command whose name the check has. A fold of the gate's is thrown away."""
    module = import_module(f"bncheck.reporting.documents.{result.check}")
    document: Callable[..., Document] = module.document
    more: dict[str, Any] = {"thrown_away": True} if result.check == "fold" else {}
    return document(result.report, result.path, **more)
