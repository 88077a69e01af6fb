"""One HTML page for any command: self-contained, offline, the same bytes for the same input.

Names come from strangers' files. In the page jinja2 escapes them; in the figures' data `<`, `>` and
`&` become escapes of JSON, which is ASCII besides, so that no name can end the script element
(`</script>`, `<!--`) or its line (U+2028). A content security policy forbids everything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.reporting.document import severity_counts
from bncheck.reporting.figures import Heatmap
from bncheck.reporting.layout import layer_name
from bncheck.reporting.prose import spans
from bncheck.reporting.visible import visible
from bncheck.rules.registry import RULES

if TYPE_CHECKING:
    from bncheck.core.findings import Finding
    from bncheck.reporting.document import Document, Table
    from bncheck.reporting.figures import Figure

_ESCAPES: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
#: The first table is open, but for what nobody would scroll through.
_OPEN_ROWS: Final = 40


def render(documents: Sequence[Document], errors: Sequence[BncheckError]) -> str:
    """The page. Raises BncheckError where jinja2 or plotly is not installed."""
    template, plotly = _libraries(any(document.figures for document in documents))
    figures = [figure for document in documents for figure in document.figures]
    places = iter(range(len(figures)))
    page: str = template.render(
        title=visible(", ".join(document.title for document in documents[:3]) or "report"),
        documents=[_document(document, places) for document in documents],
        errors=[str(error) for error in errors],
        figures=_json([_figure_data(figure) for figure in figures]) if figures else "",
        plotly=plotly,
        style=_part("style.css"),
        script=_part("script.js"),
        version=__version__,
    )
    return page


def _libraries(with_figures: bool) -> tuple[Any, str]:
    try:
        import jinja2

        environment = jinja2.Environment(
            autoescape=True,
            finalize=_safe,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters["spans"] = spans
        template = environment.from_string(_part("report.html.j2"))
        if not with_figures:
            return template, ""
        from plotly.offline import get_plotlyjs

        return template, str(get_plotlyjs())
    except ImportError as error:
        raise BncheckError(
            f"the HTML report needs {error.name}, which is not installed",
            "pip install 'bncheck[html]'",
        ) from None


def _safe(value: object) -> object:
    """Every text on the page made visible; what is marked safe is this page's own."""
    return visible(value, None) if type(value) is str else value


def _part(name: str) -> str:
    return resources.files("bncheck.reporting.page").joinpath(name).read_text("utf-8")


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _document(document: Document, places: Iterator[int]) -> dict[str, object]:
    return {
        "command": document.command,
        "counts": severity_counts(document.findings),
        "verdict": document.verdict,
        "standing": "good" if document.standing is None else document.standing.value,
        "subject": document.title,
        "summary": [line for text in document.summary for line in text.split("\n")],
        "findings": list(_findings(document.findings)),
        "figures": [_figure(figure, next(places)) for figure in document.figures],
        "tables": [_table(table, first=not i) for i, table in enumerate(document.tables)],
    }


def _findings(findings: Iterable[Finding]) -> Iterator[dict[str, object]]:
    """Findings of one rule and severity together, with the rule's explanation."""
    explanations = {rule.code: rule.explanation for rule in RULES}
    for (severity, code, name), group in groupby(
        findings, key=lambda f: (f.severity, f.rule, f.name)
    ):
        same = list(group)
        yield {
            "severity": severity.value,
            "rule": code,
            "name": name,
            "messages": [
                {
                    "layer": None if finding.layer is None else layer_name(finding.layer),
                    "text": finding.message,
                }
                for finding in same
            ],
            "fixes": list(dict.fromkeys(f.fix for f in same)),
            "explanation": _paragraphs(explanations.get(code, "")),
        }


def _paragraphs(text: str) -> list[str]:
    return [part.replace("\n", " ") for part in text.split("\n\n") if part]


def _table(table: Table, first: bool) -> dict[str, object]:
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": table.rows,
        "open": first and len(table.rows) <= _OPEN_ROWS,
    }


def _figure(figure: Figure, place: int) -> dict[str, object]:
    """What the template needs; the numbers go to the script."""
    layers = () if isinstance(figure, Heatmap) else figure.layers
    return {
        "title": figure.title,
        "caption": figure.caption,
        "place": place,
        "layers": [visible(layer.layer) for layer in layers],
        "spoken": "the numbers are in the tables below",
    }


def _figure_data(figure: Figure) -> dict[str, object]:
    kind = "heatmap" if isinstance(figure, Heatmap) else "distributions"
    return {"kind": kind, **_shown(asdict(figure))}


def _shown(value: Any) -> Any:
    """Plain data with every name made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    return value
