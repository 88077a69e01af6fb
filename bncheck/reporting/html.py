"""One HTML page for any command: self-contained, offline, the same bytes for the same input.

Names come from strangers' files. In the page jinja2 escapes them; in the figures' data `<`, `>` and
`&` become escapes of JSON, which is ASCII besides, so that no name can end the script element
(`</script>`, `<!--`) or its line (U+2028). A content security policy forbids everything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from importlib import resources
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from bncheck._version import __version__
from bncheck.core.extras import need
from bncheck.core.findings import Severity
from bncheck.reporting import heat
from bncheck.reporting.document import Detail, grouped, severity_counts
from bncheck.reporting.figures import Distributions, Heatmap, Lines
from bncheck.reporting.inline import inline
from bncheck.reporting.prose import spans
from bncheck.reporting.visible import layer_name, visible
from bncheck.rules.registry import RULES

if TYPE_CHECKING:
    from bncheck.reporting.document import Document, Group, Pages, Table
    from bncheck.reporting.figures import Distributions, Figure

_ESCAPES: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
#: What text always shows is open, and the first table, except tables too long to scroll through.
_OPEN_ROWS: Final = 40
#: With more cells, a heatmap drawn by itself would be larger than plotly.
_STILL_CELLS: Final = 10_000
#: A page draws no more snapshots than this.
_COLUMNS: Final = 120


def render(pages: Pages) -> str:
    """The page. Raises BncheckError where jinja2 or plotly is not installed."""
    worst_first = sorted(pages.documents, key=_rank)
    documents = [replace(d, figures=tuple(map(_fitted, d.figures))) for d in worst_first]
    still = pages.refresh is not None
    figures = [figure for document in documents for figure in _plotted(document, still)]
    need("jinja2", *(["plotly"] if figures else []))
    places = iter(range(len(figures)))
    page: str = _template().render(
        title=visible(", ".join(document.title for document in documents[:3]) or "report"),
        documents=[
            {
                **_document(d, pages.page_of, folded=len(documents) > 1 and d.standing is None),
                "figures": [_figure(figure, next(places)) for figure in _plotted(d, still)],
                "inline": list(inline([f for f in d.figures if not _is_plotted(f, still)])),
            }
            for d in documents
        ],
        errors=[str(error) for error in pages.errors],
        last=pages.last,
        chapters=pages.chapters,
        figures=_json([_figure_data(figure) for figure in figures]) if figures else "",
        plotly=_plotly() if figures else "",
        style=_part("style.css"),
        script=_part("script.js"),
        refresh=pages.refresh,
        refresh_script=_part("refresh.js") if pages.refresh else "",
        version=__version__,
    )
    return page


def _rank(document: Document) -> int:
    """Broken ones first; those that are alike stay in their order."""
    return len(Severity) if document.standing is None else document.standing.rank


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _template() -> Any:
    """Compiled once, for reports of several forms and a page that is written again and again."""
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
    return environment.from_string(_part("report.html.j2"))


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


def _document(document: Document, page_of: Callable[[str], str], folded: bool) -> dict[str, object]:
    groups = [_group(group, page_of) for group in grouped(document.findings)]
    told = {group.rule for group in document.told}
    return {
        "command": document.command,
        "counts": severity_counts(document.findings),
        "verdict": document.verdict,
        "standing": "good" if document.standing is None else document.standing.value,
        "subject": document.title,
        "facts": document.facts,
        "notes": document.notes,
        "groups": [group for group in groups if group["rule"] not in told],
        "told": [_group(group, page_of) for group in document.told],
        "told_findings": [group for group in groups if group["rule"] in told],
        "folded": folded,
        "tables": [_table(table, is_first=not i) for i, table in enumerate(document.tables)],
        "details": document.details,
        "next_steps": document.next_steps,
    }


def _group(group: Group, page_of: Callable[[str], str]) -> dict[str, object]:
    """Findings that are one thing to read, with the rule's explanation."""
    explanation = next((rule.explanation for rule in RULES if rule.code == group.rule), "")
    return {
        "severity": group.severity.value,
        "label": group.label,
        "rule": group.rule,
        "head": group.head,
        "messages": [
            {"layer": None if layer is None else layer_name(layer), "text": text}
            for layer, text in group.lines
        ],
        "fixes": group.fixes,
        "explanation": _paragraphs(explanation),
        "page": page_of(group.rule),
    }


def _paragraphs(text: str) -> list[str]:
    return [part.replace("\n", " ") for part in text.split("\n\n") if part]


def _table(table: Table, is_first: bool) -> dict[str, object]:
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": [
            list(map(_cell, cells, table.tones[i] if table.tones else repeat(None)))
            for i, cells in enumerate(table.rows)
        ],
        "right": [column in table.right for column in table.columns],
        "caption": table.caption,
        "open": (is_first or table.detail is Detail.ALWAYS) and len(table.rows) <= _OPEN_ROWS,
    }


def _cell(text: str, tone: Severity | None) -> dict[str, str]:
    return {"text": text, "tone": tone.value if tone else ""}


def _plotted(document: Document, still: bool) -> list[Heatmap | Distributions | Lines]:
    return [figure for figure in document.figures if _is_plotted(figure, still)]


def _is_plotted(figure: Figure, still: bool) -> TypeGuard[Heatmap | Distributions | Lines]:
    """Whether plotly draws it: its 4.8 MB are not put on a page that is rewritten all the time."""
    if still and isinstance(figure, Heatmap):
        return len(figure.rows) * len(figure.columns) > _STILL_CELLS
    return isinstance(figure, (Heatmap, Distributions, Lines))


def _fitted(figure: Figure) -> Figure:
    return heat.fitted(figure, _COLUMNS) if isinstance(figure, Heatmap) else figure


def _figure(figure: Heatmap | Distributions | Lines, place: int) -> dict[str, object]:
    """What the template needs; the numbers go to the script."""
    layers = figure.layers if isinstance(figure, Distributions) else ()
    return {
        "title": figure.title,
        "caption": figure.caption,
        "place": place,
        "layers": [visible(layer.layer) for layer in layers],
        "spoken": "the numbers are in the tables below",
    }


def _figure_data(figure: Heatmap | Distributions | Lines) -> dict[str, object]:
    if isinstance(figure, Heatmap):  # what stands beside it is in the tables
        figure = replace(figure, beside=(), ranking=None)
        return {"kind": "heatmap", **_shown(asdict(figure))}
    kind = "distributions" if isinstance(figure, Distributions) else "lines"
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
