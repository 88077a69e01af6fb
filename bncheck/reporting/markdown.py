"""Markdown for a job's summary or a comment on a pull request, in GitHub's dialect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.reporting.document import Document, Fact, Group, Pages, Table, severity_counts
from bncheck.reporting.prose import spans
from bncheck.reporting.visible import visible

#: $GITHUB_STEP_SUMMARY takes 1 MiB a step, and others may write into it, too.
_LIMIT: Final = 900_000
_PUNCTUATION: Final = re.compile(r"""([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~])""")
#: Of these, what is markup, a link, a mention or an emoji where it stands in prose.
_MARKUP: Final = re.compile(r"([!#$&*+<>@\[\\\]^_`{|}~]|:(?! ))")


def render(pages: Pages) -> str:
    """Verdicts first, then what could not be done, then each document; within a megabyte."""
    blocks = [*_overview(pages)]
    for document in pages.documents:
        blocks += _document(document)
    return _within_limit(blocks)


def _overview(pages: Pages) -> Iterator[str]:
    documents = pages.documents
    yield "## bncheck"
    lines = [f"- **could not be done**: {prose(str(error))}" for error in pages.errors]
    lines += [f"- {code(c.name)}: **{text(c.status)}**" for c in pages.chapters]
    if lines:
        yield "\n".join(lines)
    if pages.last:
        yield text(pages.last)
    if len(documents) > 1:
        rows = [
            (d.model, d.subject, d.command, d.verdict, severity_counts(d.findings))
            for d in documents
        ]
        head = ("model", "file", "check", "verdict", "findings")
        first = 0 if any(d.model for d in documents) else 1
        yield from _rows(head[first:], [row[first:] for row in rows], names=2 - first)


def _document(document: Document) -> Iterator[str]:
    yield from _head(document)
    serious = [f for f in document.findings if f.severity is not Severity.INFO]
    notes = [f for f in document.findings if f.severity is Severity.INFO]
    if serious:
        yield from _findings(serious)
    if notes:
        yield f"<details><summary>{_noted(notes)}</summary>"
        yield from _findings(notes)
        yield "</details>"
    if document.told:
        yield from _told(document.told)
    for table in document.tables:
        if table.rows:
            yield from _folded(table)
    yield from map(_fact, document.details)
    yield from (f"**Next:** {code(command)}" for command in document.next_steps)


def _head(document: Document) -> Iterator[str]:
    """Title and facts: paragraphs where nothing is judged, lines of one where something is."""
    if document.verdict:
        model = f"{code(document.model)} " if document.model else ""
        yield f"### {model}{code(document.subject)}: {text(document.verdict)}"
    elif document.subject:
        yield f"### {text(document.subject)}"
    facts = [_fact(fact) for fact in document.facts]
    facts += [f"note: {prose(note)}" for note in document.notes]
    if facts:
        yield ("\\\n" if document.verdict else "\n\n").join(facts)


def _fact(fact: Fact) -> str:
    name = f"**{text(fact.name)}**: " if fact.name else ""
    return name + prose(fact.text)


def _told(groups: Sequence[Group]) -> Iterator[str]:
    """What a command says in groups of its own: which norms stay for one reason."""
    head = (groups[0].label, "reason", "fix")
    lines = [
        (line if layer is None else f"{layer or '(root)'}: {line}", group)
        for group in groups
        for layer, line in group.lines
    ]
    yield from _rows(head, [(g.head, line, "; ".join(g.fixes)) for line, g in lines], names=0)


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    head = ("layer", "severity", "rule", "message", "fix")
    rows = [
        (
            _layer(f),
            f.severity.value,
            f"{f.rule} {f.name}",
            f.message,
            f.fix,
        )
        for f in findings
    ]
    yield from _rows(head, rows, names=1)


def _folded(table: Table) -> Iterator[str]:
    yield f"<details><summary>{text(table.title)}</summary>"
    yield from _rows(table.columns, table.rows, names=1)
    if table.caption:
        yield text(table.caption)
    yield "</details>"


#: Rows in a block: a table that does not fit is cut between two.
_ROWS: Final = 50


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> Iterator[str]:
    """Tables of at most _ROWS rows; the first `names` columns are code."""
    rule = "|" + "---|" * len(head)
    for start in range(0, len(rows), _ROWS):
        lines = [f"|{'|'.join(map(text, head))}|", rule]
        for cells in rows[start : start + _ROWS]:
            shown = [
                code(cell) if place < names else prose(cell) for place, cell in enumerate(cells)
            ]
            lines.append(f"|{'|'.join(shown)}|")
        yield "\n".join(lines)


def _within_limit(blocks: Sequence[str]) -> str:
    """As many blocks as fit, every <details> closed, and a line that says what is missing."""
    size, shown, inside = 0, [], False
    for number, block in enumerate(blocks):
        size += len(block.encode()) + 2
        if size > _LIMIT:
            left = len(blocks) - number
            shown += ["</details>"] * inside
            shown.append(f"+{left} more tables, left out because GitHub takes one megabyte")
            break
        inside = block.startswith("<details>") or (inside and block != "</details>")
        shown.append(block)
    return "\n\n".join(shown) + "\n"


def code(name: str) -> str:
    """A name as a code span; one that the span's own characters cannot leave.

    Backticks and pipes mean something inside of one in a table, so such a name goes into an HTML
    element, where entities are safe.
    """
    shown = visible(name, None)
    if not shown.strip() or re.search(r"[`|\\<&]", shown):
        return f"<code>{_entities(shown) or '(root)'}</code>"
    return f"`{shown}`"


def text(sentence: str) -> str:
    """Prose in which no character is markup, a link or a mention."""
    return _MARKUP.sub(lambda match: _entities(match[1]), visible(sentence, None))


def prose(sentence: str) -> str:
    """The same, with the commands between backticks as code."""
    return "".join(code(part) if is_code else text(part) for part, is_code in spans(sentence))


def _entities(characters: str) -> str:
    """Every punctuation character as its number: no parser takes that for markup."""
    return _PUNCTUATION.sub(lambda match: f"&#{ord(match[1])};", characters)


def _layer(finding: Finding) -> str:
    return "whole model" if finding.layer is None else finding.layer or "(root)"


def _noted(notes: Sequence[Finding]) -> str:
    rules = ", ".join(dict.fromkeys(f"{f.rule} {f.name}" for f in notes))
    return f"{count(len(notes), 'note')}: {text(rules)}"
