"""The formats, and one way from what a command says to each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Severity

if TYPE_CHECKING:
    from bncheck.reporting.document import Document, Pages


class Format(StrEnum):
    """How a report is rendered. All but JSON have a module of their own name here."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"
    SARIF = "sarif"
    JUNIT = "junit"
    GITHUB = "github"
    GITLAB = "gitlab"
    SVG = "svg"


#: What a command with a picture has, one with findings alone, and one that finds nothing.
PICTURES: Final = tuple(Format)
REPORTS: Final = tuple(format_ for format_ in Format if format_ is not Format.SVG)
EXPLANATIONS: Final = (Format.TEXT, Format.JSON, Format.MARKDOWN, Format.HTML)


@dataclass(frozen=True)
class Said:
    """What a command says: JSON's plain data, and pages for all other formats; made when asked."""

    data: Callable[[], Mapping[str, object]]
    pages: Callable[[], Pages]


def said(data: Callable[[], Mapping[str, object]], document: Callable[[], Document]) -> Said:
    """What a command says that makes a single document."""
    from bncheck.reporting.document import Pages

    return Said(data, lambda: Pages((document(),)))


def render(format_: Format, said: Said, limit: Severity | None = Severity.ERROR) -> str:
    """The whole report as the text of a file; findings of `limit` and worse are failures."""
    if format_ is Format.JSON:
        from bncheck.writing.json_text import dump

        return dump(said.data())
    module = import_module(f"bncheck.reporting.{format_.value}")
    pages = said.pages()
    documents = tuple(replace(document, limit=limit) for document in pages.documents)
    text: str = module.render(replace(pages, documents=documents))
    return text
