"""`bncheck gate` in every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.gate.report import GateReport
from bncheck.reporting.document import Document

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class GateView:
    """All models."""

    report: GateReport

    @property
    def errors(self) -> Sequence[BncheckError]:
        """What could not be checked."""
        return self.report.errors

    def show(self, console: Console, *, verbose: bool) -> None:
        """Print a paragraph for each model; with `verbose` the checks' own reports."""
        from bncheck.reporting.text.gate import show

        show(console, self.report, verbose)

    def data(self) -> dict[str, object]:
        """Schema bncheck.gate/1."""
        return self.report.to_dict()

    def documents(self) -> list[Document]:
        """The documents of all checks, each with the name of its model."""
        return [
            replace(document, model=model.name)
            for model in self.report.models
            for outcome in model.outcomes
            for document in outcome.view.documents()
        ]
