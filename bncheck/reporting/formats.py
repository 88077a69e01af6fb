"""The formats, and one way from what a command says to each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import DOCS, BncheckError
from bncheck.core.findings import Severity
from bncheck.core.timing import timed

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


#: What a file with such an ending holds, the first if nothing else is said.
_ENDINGS: Final = {
    ".html": (Format.HTML,),
    ".htm": (Format.HTML,),
    ".json": (Format.JSON, Format.SARIF, Format.GITLAB),
    ".md": (Format.MARKDOWN,),
    ".sarif": (Format.SARIF,),
    ".svg": (Format.SVG,),
    ".xml": (Format.JUNIT,),
}


#: Text has one of these, or none.
_PLAIN: Final = ("", ".txt", ".text", ".log", ".out")


def format_of(path: Path, asked: Format | None, offered: tuple[Format, ...] = PICTURES) -> Format:
    """The format of a report in this file: what is asked for, else what its ending says.

    Raises BncheckError where the two contradict each other, or the ending is that of no format.
    """
    ending = path.suffix.lower()
    fitting = _ENDINGS.get(ending, ())
    if asked is None and not fitting and ending not in _PLAIN and not ending[1:].isdecimal():
        known = [ending for ending, held in _ENDINGS.items() if held[0] in offered]
        raise BncheckError(
            f"is to be a report, and no format has the ending {path.suffix}",
            f"write {', '.join(known)} or .txt, or give the format",
            str(path),
        )
    if asked is None:
        return fitting[0] if fitting else Format.TEXT
    if fitting and asked not in fitting:
        raise BncheckError(
            f"is to be {asked.value}, and its name ends in {path.suffix}",
            f"leave the format out for {fitting[0].value}, or give the file another ending",
            str(path),
        )
    return asked


@dataclass(frozen=True)
class Said:
    """What a command says: JSON's plain data, and pages for all other formats; made when asked."""

    data: Callable[[], Mapping[str, object]]
    pages: Callable[[], Pages]


def said(data: Callable[[], Mapping[str, object]], document: Callable[[], Document]) -> Said:
    """What a command says that makes a single document."""
    from bncheck.reporting.document import Pages

    return Said(data, lambda: Pages((document(),)))


@timed("writing reports")
def render(
    format_: Format, said: Said, limit: Severity | None = Severity.ERROR, docs: str = DOCS
) -> str:
    """The whole report as the text of a file; findings of `limit` and worse are failures.

    `docs` is the address of the documentation.
    """
    if format_ is Format.JSON:
        from bncheck.writing.json_text import dump

        return dump(said.data())
    module = import_module(f"bncheck.reporting.{format_.value}")
    pages = said.pages()
    documents = tuple(replace(document, limit=limit) for document in pages.documents)
    text: str = module.render(replace(pages, documents=documents, docs=docs))
    return text
