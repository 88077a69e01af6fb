"""The formats, and one way from a command's result to each of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from bncheck.core.findings import Severity

if TYPE_CHECKING:
    from rich.console import Console

    from bncheck.core.errors import BncheckError
    from bncheck.reporting.document import Document


class Format(StrEnum):
    """How a report is rendered. All but text and JSON have a module of their own name here."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"
    SARIF = "sarif"
    JUNIT = "junit"
    GITHUB = "github"
    GITLAB = "gitlab"
    SVG = "svg"


class View(Protocol):
    """A command's result, in the three forms from which every format is made."""

    @property
    def errors(self) -> Sequence[BncheckError]:
        """What could not be done, for inputs that were skipped."""

    def show(self, console: Console, *, verbose: bool) -> None:
        """Print the text for people; with `verbose`, all there is to say."""

    def data(self) -> dict[str, object]:
        """The JSON of CONTRACT's schema, as plain data."""

    def documents(self) -> Sequence[Document]:
        """A document for each input that could be reported on."""


def render(format_: Format, view: View, limit: Severity | None = Severity.ERROR) -> str:
    """The whole report as the text of a file; findings of `limit` and worse are failures."""
    if format_ is Format.TEXT:
        from bncheck.reporting.layout import file_console

        page = io.StringIO()
        view.show(file_console(page), verbose=True)
        return page.getvalue()
    if format_ is Format.JSON:
        from bncheck.writing.json_text import dump

        return dump(view.data())
    module = import_module(f"bncheck.reporting.{format_.value}")
    documents = [replace(document, limit=limit) for document in view.documents()]
    text: str = module.render(documents, view.errors)
    return text
