"""Text for the person at the terminal: the verdict first, then what was found, tables, figures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.text import Text

from bncheck.core.findings import Severity
from bncheck.core.words import count
from bncheck.reporting.document import Chapter, Detail, Document, Fact, Group, Line, Pages, Table
from bncheck.reporting.layout import LABEL, STYLES, file_console, print_all, row, shown, table
from bncheck.reporting.visible import layer_name, visible, visible_line

if TYPE_CHECKING:
    from bncheck.reporting.figures import Figure

#: A command in a fix is shown below the report instead.
_BELOW: Final = "recalibrate (the command below)"
_NAMED: Final = 4  # layers named before "and N more"
#: Lines of one group of findings and rows of one table; a person does not read more.
_MOST_LINES: Final = 500
_MOST_ROWS: Final = 2000
_CHAPTER: Final = 10  # the first column of a gate's summary: "UNCHECKED" and a space


def render(pages: Pages) -> str:
    """All there is to say, as a file."""
    page = io.StringIO()
    show(file_console(page), pages, verbose=True)
    return page.getvalue()


def show(console: Console, pages: Pages, *, verbose: bool) -> None:
    """Print the pages; with `verbose`, all there is to say."""
    for chapter in pages.chapters:
        print_all(console, list(_chapter(chapter)))
        for document in chapter.documents if verbose else ():
            print_all(console, [Text(), *_document(console, document, verbose)])
        print_all(console, [Text()])
    for index, document in enumerate(() if pages.chapters else pages.documents):
        blank = [Text()] * bool(index)
        print_all(console, [*blank, *_document(console, document, verbose)])
    if pages.last:
        print_all(console, [Text()] * (not pages.chapters) + [shown(pages.last)])


def show_findings(console: Console, documents: Iterable[Document]) -> None:
    """What --quiet leaves: a line with path, severity, rule, layer and message."""
    for document in documents:
        for finding in document.findings:
            if finding.severity is not Severity.INFO:
                line = shown(f"{document.file}: ")
                line.no_wrap = True
                line.append(finding.severity.value, STYLES[finding.severity])
                line.append(f" {finding.rule} ")
                line.append(f"{layer_name(finding.layer)}: {visible(finding.message, None)}")
                print_all(console, [line])


def _document(console: Console, document: Document, verbose: bool) -> Iterator[RenderableType]:
    if document.verdict:
        yield from _head(document, verbose)
    else:
        yield from _prose(document)
    yield from _findings(document, verbose)
    for data in document.tables:
        yield from _table(data, console.width, verbose, header=bool(document.verdict))
    if document.figures:  # those of means and variances take a page
        yield from _figure(console, document.figures, verbose)
    details = [fact for fact in document.details if verbose or fact.detail is Detail.ALWAYS]
    if details:
        yield from (Text(), *map(_fact, details))
    for command in document.next_steps:  # on a line of its own, to be copied whole
        line = Text.assemble(("next:    ", "green"), visible(command, None), no_wrap=True)
        yield from (Text(), line)


def _figure(console: Console, figures: Sequence[Figure], verbose: bool) -> Iterator[RenderableType]:
    from bncheck.reporting.drawing import picture
    from bncheck.reporting.figures import Heatmap

    drawn = [f for f in figures if isinstance(f, Heatmap) and len(f.columns) > 1]
    if drawn:
        yield from (Text(), picture(console, drawn[0], verbose))


def _head(document: Document, verbose: bool) -> Iterator[RenderableType]:
    bad = document.standing in (Severity.ERROR, Severity.WARNING)
    word = document.verdict.upper() if bad else document.verdict
    width = max(LABEL, len(word) + 1)
    yield row(shown(word, STYLES[document.standing]), shown(document.subject, "bold"), width)
    for fact in document.facts:
        if verbose or fact.detail is Detail.ALWAYS:
            yield row(Text(), _fact(fact), width)


def _fact(fact: Fact) -> Text:
    style = STYLES[fact.tone] if fact.tone else "dim" if fact.quiet else ""
    name = f"{visible(fact.name, None)}: " if fact.name else ""
    return Text.assemble((name, "bold"), (visible(fact.text, None), style))


def _prose(document: Document) -> Iterator[RenderableType]:
    """Paragraphs under a title."""
    if document.subject:
        yield shown(document.subject, "bold")
    for fact in document.facts:
        yield from (Text(), _fact(fact))


def _findings(document: Document, verbose: bool) -> Iterator[RenderableType]:
    """Findings, a blank line before each; infos are one line without `verbose`."""
    groups = document.groups
    whole = [group for group in groups if verbose or not group.note]
    for group in whole:
        yield from (Text(), _group(group, document.next_steps, verbose))
    notes = [group.note for group in groups if group.note and not verbose]
    if notes:
        yield from [Text()] * bool(whole)
        line = shown("; ".join(notes) + " (--verbose explains)")
        yield row(Text("notes", STYLES[Severity.INFO]), line)


def _group(group: Group, commands: Sequence[str], verbose: bool) -> RenderableType:
    parts = [shown(group.head, "bold")]
    lines = group.lines if verbose else group.brief or _of_first(group)
    parts += map(_line, lines[:_MOST_LINES])
    if len(lines) > _MOST_LINES:
        parts.append(_more(len(lines) - _MOST_LINES))
    if not verbose and not group.brief and (others := _other_layers(group)):
        parts.append(Text(f"likewise: {others}"))
    fixes = group.fixes if verbose else group.fixes[:1]
    for fix in fixes:
        for command in commands:
            fix = fix.replace(f"run `{command}`", _BELOW)
        parts.append(Text.assemble(("fix: ", "green"), visible(fix, None)))
    if hidden := len(group.fixes) - len(fixes):
        parts.append(Text(f"and {count(hidden, 'other fix', 'other fixes')} (--verbose)"))
    return row(shown(group.label, STYLES[group.severity]), Lines(*parts))


def _line(line: Line) -> Text:
    layer, message = line
    name = Text("" if layer is None else f"{layer_name(layer)}: ")
    name.stylize("bold", 0, max(0, len(name) - 2))
    return name.append_text(shown(message))


def _more(count: int) -> Text:
    return Text(f"and {count:,} more (--format json has them all)", "dim")


def _of_first(group: Group) -> tuple[Line, ...]:
    """All that is said of the first layer, of which there may be more than one line."""
    return tuple(line for line in group.lines if line[0] == group.lines[0][0])


def _other_layers(group: Group) -> str:
    """The other layers, each once."""
    layers = list(dict.fromkeys(layer for layer, _ in group.lines if layer != group.lines[0][0]))
    names = ", ".join(layer_name(layer) for layer in layers[:_NAMED])
    more = len(layers) - _NAMED
    return f"{names} and {more} more" if more > 0 else names


def _table(data: Table, width: int, verbose: bool, header: bool) -> Iterator[RenderableType]:
    rows: Sequence[int] = range(len(data.rows))
    if not verbose and data.brief is not None:
        rows = data.brief
    if data.detail is Detail.NEVER or (data.detail is Detail.VERBOSE and not verbose) or not rows:
        return
    yield from [Text()] * header
    yield table(data, rows[:_MOST_ROWS], width, header)
    if len(rows) > _MOST_ROWS:
        yield _more(len(rows) - _MOST_ROWS)
    if data.caption:
        yield shown(data.caption, "dim italic")
    if data.rest and len(rows) < len(data.rows):
        yield shown(data.rest, "dim")


def _chapter(chapter: Chapter) -> Iterator[RenderableType]:
    """One model of a gate in brief: a line for each check, and its errors and warnings."""
    word = chapter.status if chapter.standing is None else chapter.status.upper()
    name = visible(chapter.name)
    width = max(_CHAPTER, len(word) + 1)
    yield row(shown(word, STYLES[chapter.standing]), Text(name, "bold"), width)
    for document in chapter.documents:
        head = shown(f"{document.command} {document.subject}: ")
        head.append(visible(document.verdict), STYLES[document.standing])
        yield row(Text(), head, _CHAPTER)
        for group in document.groups:
            if group.severity is not Severity.INFO:
                label = Text(group.severity.value, STYLES[group.severity])
                yield row(label, _in_brief(group), _CHAPTER)
    for error in chapter.errors:
        line = Text(visible_line(str(error)), STYLES[Severity.ERROR])
        yield row(Text(), line, _CHAPTER)


def _in_brief(group: Group) -> Text:
    layer, message = group.lines[0]
    text = Text(f"{group.rule or group.label} {layer_name(layer)}: {visible(message, None)}")
    if others := _other_layers(group):
        text.append(f"\nlikewise: {others}")
    return text.append("\nfix: ", "green").append(visible(group.fixes[0], None))
