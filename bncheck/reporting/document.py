"""What one command says about one file: the same for every format, text among them.

`reporting/documents/` makes a Document of each command's report; a module for each format renders
it. Nothing in here is escaped: names from files are as they are, and each format escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias, TypeVar, overload

from bncheck.core.errors import DOCS, BncheckError
from bncheck.core.findings import Finding, Severity, Silenced
from bncheck.core.words import count

if TYPE_CHECKING:
    from bncheck.reporting.figures import Figure

T = TypeVar("T")


class Detail(Enum):
    """When text shows a part; the other formats show every part."""

    ALWAYS = "always"
    VERBOSE = "with --verbose"
    NEVER = "never"  # text says the same elsewhere, or it does not fit a screen


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence; `name` is what it is about, `quiet` an aside, `tone` how bad it is."""

    text: str
    name: str = ""
    tone: Severity | None = None
    quiet: bool = False
    detail: Detail = Detail.ALWAYS


class Rows(Sequence[tuple[str, ...]]):
    """A row of each thing, made when it is shown: of 10,000 layers few are."""

    def __init__(self, things: Sequence[T], row: Callable[[T], tuple[str, ...]]) -> None:
        self._number = len(things)
        self._row = lru_cache(maxsize=None)(lambda place: row(things[place]))

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, place: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[tuple[str, ...]]: ...
    def __getitem__(self, place: int | slice) -> tuple[str, ...] | Sequence[tuple[str, ...]]:
        places = range(self._number)[place]
        return self._row(places) if isinstance(places, int) else [*map(self._row, places)]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as people read them.

    `right` names the columns that are numbers. `tones` has a severity for each cell, where cells
    have one. Without --verbose text shows the rows in `brief` and the sentence `rest`; None: all.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: tuple[str, ...] = ()
    caption: str = ""
    detail: Detail = Detail.ALWAYS
    brief: tuple[int, ...] | None = None
    rest: str = ""
    tones: tuple[tuple[Severity | None, ...], ...] = ()


#: A layer (None: it is about no single one) and what is said about it.
Line: TypeAlias = "tuple[str | None, str]"


@dataclass(frozen=True, slots=True)
class Group:
    """Findings that are one thing to read: 19 layers with one fault.

    `brief` is what text shows without --verbose: the first line and the other layers' names if not
    given; of a group with a `note` only that.
    """

    label: str
    severity: Severity
    head: str
    lines: tuple[Line, ...]
    fixes: tuple[str, ...]
    rule: str = ""
    note: str = ""
    brief: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """What one command says about one file.

    `verdict` is its word for it (healthy, broken, folded), empty where nothing is judged;
    `standing` is how bad that is (None: good), `facts` the sentences beneath it and `details` those
    at the end. `told` says in groups of its own what the findings of the same rules say one by one.
    `next_steps` are commands to type, `notes` what stderr says beside text. Findings of `limit` and
    worse make the command fail; None where nothing does. `model` is what a gate's configuration
    calls it, empty elsewhere; `path` the file, where the subject itself is not a file. `silenced`
    are findings that the project does not count, which SARIF alone tells.
    """

    command: str
    subject: str
    verdict: str
    standing: Severity | None
    facts: tuple[Fact, ...] = ()
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    details: tuple[Fact, ...] = ()
    next_steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    told: tuple[Group, ...] = ()
    path: str = ""
    limit: Severity | None = Severity.ERROR
    model: str = ""
    silenced: tuple[Silenced, ...] = ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The findings as people read them; where something is told, that instead."""
        rules = {group.rule for group in self.told}
        return (*grouped(f for f in self.findings if f.rule not in rules), *self.told)

    @property
    def file(self) -> str:
        """The file that findings are about: `path`, where the subject is not a file itself."""
        return self.path or self.subject

    @property
    def title(self) -> str:
        """The subject, with the model that it belongs to where there may be several."""
        return f"{self.model}: {self.subject}" if self.model else self.subject

    def fails(self, finding: Finding) -> bool:
        """Whether this finding is among those that make the command fail."""
        return self.limit is not None and finding.severity.rank <= self.limit.rank


@dataclass(frozen=True, slots=True)
class Chapter:
    """One declared model of a gate: its status, its documents, and what could not be done."""

    name: str
    status: str
    standing: Severity | None
    documents: tuple[Document, ...]
    errors: tuple[BncheckError, ...]


@dataclass(frozen=True, slots=True)
class Refresh:
    """How often a page is to look at itself again, and until when, in seconds since 1970."""

    seconds: int
    until: int


@dataclass(frozen=True, slots=True)
class Pages:
    """All that one command says. `last` sums up several; a gate's documents are in `chapters`.

    `docs` is the address below which every rule has its page. `refresh` is for a page that is
    written again and again.
    """

    documents: tuple[Document, ...]
    errors: Sequence[BncheckError] = ()
    last: str = ""
    chapters: tuple[Chapter, ...] = ()
    docs: str = DOCS
    refresh: Refresh | None = None

    def page_of(self, code: str) -> str:
        """The address of a rule's page."""
        return f"{self.docs.rstrip('/')}/rules/{code}/"


def grouped(findings: Iterable[Finding]) -> tuple[Group, ...]:
    """Consecutive findings of one rule and severity together."""
    return tuple(_groups(findings))


def _groups(findings: Iterable[Finding]) -> Iterator[Group]:
    for (severity, code, name), same in groupby(
        findings, key=lambda f: (f.severity, f.rule, f.name)
    ):
        found = list(same)
        lines = tuple((f.layer, f.message) for f in found)
        layers = {f.layer for f in found}  # a layer may jump twice
        where = f" in {count(len(layers), 'layer')}"
        is_note = severity is Severity.INFO
        yield Group(
            severity.value,
            severity,
            f"{code} {name}" + where * (len(layers) > 1),
            lines,
            tuple(dict.fromkeys(f.fix for f in found)),
            code,
            f"{code} {name}" + where * (found[0].layer is not None) if is_note else "",
        )


def severity_counts(findings: Sequence[Finding]) -> str:
    """1 error, 2 warnings."""
    counts = [(sum(f.severity is s for f in findings), s.value) for s in Severity]
    return ", ".join(count(number, word) for number, word in counts if number) or "none"


def standing_of(findings: tuple[Finding, ...]) -> Severity | None:
    """The worst severity that decides a verdict; infos decide nothing."""
    serious = [f.severity for f in findings if f.severity is not Severity.INFO]
    return min(serious, key=lambda severity: severity.rank, default=None)
