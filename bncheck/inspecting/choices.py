"""What the reader chose on the user's behalf in a file of several parts, and what it left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Verdict, cause_of
from bncheck.core.words import shortened
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint, static_findings
from bncheck.inspecting.report import InspectReport, OtherPart
from bncheck.reading.checkpoint import Checkpoint, Container, Subtree, part_name
from bncheck.reading.folders import unread_in
from bncheck.reading.opening import unlisted_tensors
from bncheck.reading.remote import Remote
from bncheck.reading.tensors import TensorMap
from bncheck.rules.choosing import choose_rules, switched_off

#: How many other parts of a file are named.
_NAMED: Final = 3


def other_parts(checkpoint: Checkpoint, options: InspectOptions) -> tuple[OtherPart, ...]:
    """The parts that were not taken, each judged: a broken average must not hide behind a choice.

    There are none where the user chose.
    """
    if options.key is not None:
        return ()
    return tuple(_judged(checkpoint, tree, options) for tree in checkpoint.alternatives)


def choice_notes(
    checkpoint: Checkpoint,
    options: InspectOptions,
    others: Sequence[OtherPart] | None = None,
) -> Iterator[str]:
    """A line for each choice: the part of the file that was taken, and tensors that were not.

    `others` are its other parts, where they were judged already.
    """
    others = other_parts(checkpoint, options) if others is None else others
    if others:
        ranked = sorted(others, key=lambda part: part.verdict is not Verdict.BROKEN)
        named = [f"{part_name(part.key)} ({part.word})" for part in ranked[:_NAMED]]
        named += [f"{len(others) - _NAMED} more"] if len(others) > _NAMED else []
        yield (
            f"{checkpoint.path}: using {part_name(checkpoint.key)}; --key selects another: "
            f"{', '.join(named)}"
        )
    if unlisted := unlisted_tensors(checkpoint):
        rest = f" and {len(unlisted) - 1} more" if len(unlisted) > 1 else ""
        yield (
            f"{checkpoint.path}: ignoring {shortened(unlisted[0])}{rest}: the index does not "
            "list it for its shard, but some loaders load it"
        )
    yield from _beside(checkpoint)


def ignored_notes(report: InspectReport, options: InspectOptions) -> Iterator[str]:
    """A line for each rule that would have said something of the file, or of the data."""
    if not options.ignore:
        return
    everything = replace(options, select=options.ignore, ignore=())
    found = static_findings(report.checkpoint, report.layers, everything)
    alone = "" if report.measurement is None else " by the file alone"
    for line in switched_off(found, options.select, options.ignore):
        yield f"{report.subject}: {line}{alone}"
    w2, limit = report.summary.w2, options.thresholds.w2_warning
    causes = any(rule.code.startswith("BN2") for rule in choose_rules(options.ignore, ()))
    if causes and w2 is not None and w2 >= limit and cause_of(report.findings) is None:
        yield (
            f"{report.subject}: W2 is {options.thresholds.written(w2)} (warning from {limit:.2f}), "
            f"and the rules that would say why are ignored ({', '.join(options.ignore)})"
        )


def _beside(checkpoint: Checkpoint) -> Iterator[str]:
    """A line for the weights that a folder holds beside those that its loader takes."""
    if checkpoint.container is not Container.HF_DIRECTORY or isinstance(checkpoint.path, Remote):
        return
    try:
        unread = unread_in(checkpoint.path)
    except BncheckError as error:
        yield f"{checkpoint.path}: what else is in it was not looked at: it {error.sentence}"
        return
    if unread:
        names = [shortened(str(path.relative_to(checkpoint.path))) for path in unread[:_NAMED]]
        more = len(unread) - len(names)
        names += [f"{more} more"] if more else []
        yield f"{checkpoint.path}: not read: {', '.join(names)}; name one to inspect it"


def _judged(checkpoint: Checkpoint, tree: Subtree, options: InspectOptions) -> OtherPart:
    """The verdict that a report on another part would have, or why there is none."""
    tensors = TensorMap(tree.tensors)
    other = replace(
        checkpoint, key=tree.path, tensors=tensors, modules=tree.modules, listing=tree.listing
    )
    try:
        summary = inspect_checkpoint(other, options).summary
    except BncheckError as error:
        return OtherPart(tree.path, None, reason=error.sentence)
    return OtherPart(tree.path, summary.verdict, summary.cause)
