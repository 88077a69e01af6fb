"""`bncheck fold`: verdict, proof, what stays and why, and where the others went."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

from bncheck.core.findings import Severity
from bncheck.core.words import count, percent
from bncheck.folding.planner.families import Family
from bncheck.folding.planner.plan import Decision, Status
from bncheck.folding.result import FoldReport, Parity
from bncheck.reporting.document import Detail, Document, Fact, Group, Table
from bncheck.reporting.figures import Move, Moves
from bncheck.reporting.visible import layer_name, visible

_NAMED: Final = 3  # norms named before "and N more"
#: "layer1.0.relu (relu)" differs from norm to norm where the reason is the same.
_PLACE: Final = re.compile(r"\S+ \((\w+)\)")
_STAYING: Final = re.compile(r"\S+(?=,(?: which is)? itself a normalisation)")
#: BatchNorms first, what is no norm last.
_ORDER: Final = {family.value: place for place, family in enumerate(Family)}
_AND: Final = re.compile(r", (?=[^,]*$)")


def document(
    report: FoldReport, path: str, dry_run: bool = False, thrown_away: bool = False
) -> Document:
    """One fold, or with `dry_run` its plan; one that was `thrown_away` says nothing of a file."""
    word, standing = _verdict(report, dry_run)
    kept = [
        _kept(group, _severity(report, group[0]), dry_run) for group in groups(_staying(report))
    ]
    says_where = not dry_run and not thrown_away and (report.batchnorms or report.output)
    table = decisions_table(report, Detail.ALWAYS if dry_run else Detail.VERBOSE)
    return Document(
        "fold", path, word, standing,
        tuple(_facts(report, dry_run, bool(says_where))), report.findings,
        (table,) if table.rows else (), tuple(moves(report)), told=tuple(kept),
        notes=report.notes, silenced=report.silenced,
    )  # fmt: skip


def _verdict(report: FoldReport, dry_run: bool) -> tuple[str, Severity | None]:
    if report.parity is not None and not report.parity.holds:
        return "failed", Severity.ERROR
    if any(finding.severity is Severity.ERROR for finding in report.findings):
        return "kept", Severity.ERROR
    if dry_run:
        return "plan", Severity.INFO
    if not report.folded:
        return "kept" if report.batchnorms else "nothing", Severity.INFO
    return ("partly", Severity.INFO) if report.kept else ("folded", None)


def _facts(report: FoldReport, dry_run: bool, says_where: bool) -> Iterator[Fact]:
    verb = "can be folded" if dry_run else "folded"
    text = f"{counted(report)} {verb}"
    yield Fact(text if report.batchnorms else "no BatchNorm in it, so there is nothing to fold")
    if report.parts:
        yield from _by_parts(report)
    if report.parity is not None:
        yield Fact(_parity(report.parity))
    if report.flushed:
        yield Fact(f"{count(report.flushed, 'subnormal number')} flushed to 0")
    if says_where:
        yield _destination(report)


def _by_parts(report: FoldReport) -> Iterator[Fact]:
    """Which parts are one graph, and which are not and why."""
    names = [layer_name(part.name) for part in report.parts if part.folded]
    whole = f"the model {visible(report.whole)}; " if report.whole else ""
    yield Fact(f"{whole}folded by parts: {_AND.sub(' and ', ', '.join(names))}")
    for part in report.parts:
        if not part.folded:
            yield Fact(f"{layer_name(part.name)} is not folded whole: it {visible(part.reason)}")


def counted(report: FoldReport) -> str:
    """3 of 4 BatchNorms and 12 of 13 LayerNorms: how many of each kind went into other calls.

    Modules are counted, as `inspect` does, and their calls where there are more of these.
    """
    calls, parts = report.by_kind(), []
    for kind, modules in sorted(report.modules_by_kind().items(), key=lambda pair: _ORDER[pair[0]]):
        part, own = f"{modules.folded} of {count(modules.total, kind)}", calls[kind]
        more = own.total > modules.total
        parts.append(f"{part} ({own.folded} of {own.total} calls)" if more else part)
    return _AND.sub(" and ", ", ".join(parts))


def _noun(decisions: Sequence[Decision]) -> str:
    """What to call these norms."""
    kinds = {decision.kind.value for decision in decisions}
    return kinds.pop() if len(kinds) == 1 else "norm"


def _parity(parity: Parity) -> str:
    """The proof in a sentence."""
    sizes = [str(batch) for batch in sorted(set(parity.batches))]
    if sizes == ["0"]:
        where = "on inputs without a batch"
    elif len(sizes) > 1:
        where = f"in batches of {_AND.sub(' and ', ', '.join(sizes))}"
    else:
        where = f"in batches of {sizes[0]}, the only size it takes" if sizes else "on no input"
    places = "" if parity.regions is None else (
        f"in float64, no value beside a fold is off by more than "
        f"{parity.regions.max_relative_error:.2g}; "
    )  # fmt: skip
    text = (
        f"parity: {places}the outputs differ by {parity.max_relative_error:.2g} at most, {where} "
        f"(relative to a channel's largest value, tolerance {parity.tolerance:.0e})"
    )
    if parity.max_relative_error > parity.tolerance:
        text += f"; rounding alone moves the original by {parity.original_error:.2g}"
        text += " (ten times that is allowed)" if parity.holds else ""
    if parity.argmax_agreement is not None and parity.argmax_agreement < 1:
        text += f"; the top class is the same for {percent(parity.argmax_agreement)}"
    return text


def _destination(report: FoldReport) -> Fact:
    if report.output is not None:
        return Fact(f"written {report.output}")
    if report.parity is not None and not report.parity.holds:
        place = visible(report.parity.parts_at or "")
        where = f" from {place} on" if place else ""
        return Fact(f"nothing was written: beyond the tolerance{where}", tone=Severity.ERROR)
    return Fact("nothing was written: --fail-unfolded", tone=Severity.ERROR)


def _severity(report: FoldReport, decision: Decision) -> Severity:
    """How serious it is that this one stays."""
    for finding in report.findings:
        if finding.layer == decision.name and finding.rule in ("BN402", "BN403"):
            return finding.severity
    return Severity.INFO


def _staying(report: FoldReport) -> list[Decision]:
    return [d for d in _once(report.batchnorms) if d.status is Status.KEPT]


def groups(kept: Sequence[Decision]) -> Iterator[list[Decision]]:
    """Those that stay for the same reason, in the order of the first; details may differ."""
    groups: dict[tuple[str, str, bool], list[Decision]] = {}
    for decision in kept:
        key = (general(decision.reason), general(decision.hint), decision.overflow)
        groups.setdefault(key, []).append(decision)
    yield from groups.values()


def general(reason: str) -> str:
    """A reason or hint without the names of the calls concerned, so that equal ones meet."""
    return _STAYING.sub("another one", _PLACE.sub(lambda m: _article(m[1]), reason))


def _article(kind: str) -> str:
    return f"{'an' if kind[0].lower() in 'aeio' else 'a'} {kind}"


def _once(decisions: Sequence[Decision]) -> Iterator[Decision]:
    """A module once where all of its calls have one fate, else each of its calls by its name."""
    fates: dict[str, list[Decision]] = {}
    for decision in decisions:
        as_first = replace(decision, name=decision.layer, into=_names_of(decision))
        fates.setdefault(decision.layer, []).append(as_first)
    said: set[str] = set()
    for decision in decisions:
        first, *others = fates[decision.layer]
        if any(other != first for other in others):
            yield decision
        elif first.name not in said:
            said.add(first.name)
            yield first


def _kept(group: list[Decision], severity: Severity, every: bool) -> Group:
    """With `every`, text says each one's reason without being asked."""
    first = group[0]
    names = ", ".join(layer_name(decision.name) for decision in group[:_NAMED])
    modules, more = len({decision.layer for decision in group}), len(group) - _NAMED
    names += f" and {more} more" if more > 0 else ""
    alike = len({(decision.reason, decision.hint) for decision in group}) == 1
    hint = first.hint if alike else general(first.hint)
    brief = (None, first.reason if alike else general(first.reason))
    whole = alike and more <= 0
    lines = (brief,) if whole else tuple((d.name, d.reason) for d in group)
    return Group(
        "kept",
        severity,
        names if len(group) == 1 else f"{count(modules, _noun(group))}: {names}",
        lines,
        (hint,) if hint else (),
        "BN403" if first.overflow else "BN402",
        brief=lines if every else (brief,),
    )


def moves(report: FoldReport) -> Iterator[Moves]:
    """Where each went; nothing where there is none."""
    if not report.batchnorms:
        return
    noun, told = _noun(report.batchnorms), _once(report.batchnorms)
    yield Moves(
        f"Where each {noun} went",
        "An arrow leads to the call whose weights took it in, in the order of the model. What it "
        "passed on the way computes the same as before.",
        tuple(_moved(list(same)) for _, same in groupby(told, key=_destination_of)),
    )


def _destination_of(decision: Decision) -> tuple[object, ...]:
    """Those with the same one, one behind the other, are one move."""
    if decision.status is Status.KEPT or not decision.into:
        return (decision.name, decision.reason)
    return (_names_of(decision), decision.through)


def _names_of(decision: Decision) -> tuple[str, ...]:
    """Where it went: a module once, however many of its calls took a part."""
    return tuple(dict.fromkeys(decision.into))


def _moved(same: Sequence[Decision]) -> Move:
    first, names = same[0], tuple(decision.name for decision in same)
    stays = first.reason if first.status is Status.KEPT else ""
    return Move(names, _names_of(first), first.through, stays)


def decisions_table(report: FoldReport, detail: Detail) -> Table:
    """A row for each that went, with where it went; what stays is among the groups."""
    went = [d for d in _once(report.batchnorms) if d.status is not Status.KEPT]
    columns = {
        _noun(went or report.batchnorms): [d.name or "(root)" for d in went],
        "status": [d.status.value for d in went],
        "went into": [", ".join(_names_of(d)) or "nothing (it is an identity)" for d in went],
        "through": [", ".join(d.through) for d in went],
        "reason": [d.reason for d in went],
    }
    if all(decision.status is Status.FOLDED for decision in went):
        del columns["status"]
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    return Table(
        f"{_noun(went or report.batchnorms)}s",
        tuple(shown),
        tuple(zip(*shown.values(), strict=True)),
        detail=detail,
    )
