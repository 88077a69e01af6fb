"""What `export` and `compare` say of a proof."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from bncheck.core.findings import Severity
from bncheck.core.words import percent
from bncheck.reporting.document import Detail, Table
from bncheck.reporting.figures import Bar, Bars, Columns
from bncheck.shipping.proof import AS_WRITTEN, FLOAT64, LevelParity, Proof
from bncheck.shipping.report import Latency

_OUTPUTS: Final = 20  # bars of one way to run it
_BEFORE, _BEHIND = 2, 4  # values about the place where the two part
_ORDER: Final = "from the inputs to the outputs"


def sentence(proof: Proof) -> str:
    """The largest error of all ways to run it, and on what it was found."""
    if not proof.measured:
        return "parity: unknown, because nothing installed here can run it"
    sizes = sorted({batch for parity in proof.measured for batch in parity.batches})
    numbers = [str(size) for size in sizes]
    which = " and ".join([", ".join(numbers[:-1]), numbers[-1]] if len(numbers) > 1 else numbers)
    shares = [p.argmax_agreement for p in proof.measured if p.argmax_agreement is not None]
    share = f"; the top class is the same for {percent(min(shares))}" if shares else ""
    where = f"in batches of {which}" if any(sizes) else "on inputs without a batch"
    against = f"against the original {_REFERENCES[proof.reference]}"
    return (
        f"parity: {proof.worst:.2g} is the largest relative error of an output channel {where}, "
        f"{against} (tolerance {proof.tolerance:.0e}){share}"
    )


def divergence(proof: Proof) -> str:
    """Where two that are not one function part."""
    if proof.parts_at:
        return f"they diverge at {proof.parts_at}"
    if proof.steps:
        return "in float64 all values agree: it is the runtime that makes the difference"
    return "they share no name at which they diverge"


_REFERENCES = {
    FLOAT64: "in float64",
    AS_WRITTEN: "as it is written, which nothing here can compute in float64",
}


def levels_table(proof: Proof, latency: Sequence[Latency] = ()) -> Table:
    """A row for each way to run it."""
    timed = {entry.level: entry for entry in latency}
    columns = ("run by", "relative error", *(("latency", "of unfolded") if latency else ()))
    rows = []
    for level in proof.levels:
        cells = [_name(level.level), _error(level)]
        if latency:
            entry = timed.get(level.level)
            cells += (
                ["-", "-"]
                if entry is None
                else [f"{entry.folded_ms:.3f} ms", f"{entry.ratio:.2f}x"]
            )
        rows.append(tuple(cells))
    return Table("Parity", columns, tuple(rows), columns[1:])


def errors(proof: Proof) -> Iterator[Bars]:
    """The error of each output by the way to run it; nothing where all is exact."""
    limit = Bar("tolerance", proof.tolerance, marked=True)
    groups = []
    for level in proof.levels:
        found = [(name, error) for name, error in level.outputs.items() if 0 < error < math.inf]
        if found:
            bars = (*(Bar(name, error) for name, error in found[:_OUTPUTS]), limit)
            groups.append((f"run by {_name(level.level)}", bars))
    if groups and proof.tolerance > 0:
        yield Bars(
            "How far each output is from the original",
            "The largest relative error of a channel, for each way to run the file. An output that "
            "is exact is not drawn.",
            tuple(groups),
        )


def on_the_way(proof: Proof) -> Iterator[Columns]:
    """The error at each value, in the order of calls; nothing where all is exact."""
    rows = [(name, error) for name, error in _steps(proof) if error < math.inf]
    if any(error for _, error in rows) and proof.tolerance > 0:
        yield Columns(
            "Where a difference enters",
            f"The largest relative error of a channel at each value that both have, {_ORDER}: of "
            "the files in float64, so without what a runtime rounds.",
            "relative error",
            tuple(name for name, _ in rows),
            tuple(error for _, error in rows),
            ((proof.tolerance, "tolerance"),),
            log=True,
        )


def steps_table(proof: Proof) -> Iterator[Table]:
    """A row for each value; text shows those about the place where the two part."""
    rows = list(_steps(proof))
    if not rows:
        return
    bad = Severity.ERROR if not proof.holds else None
    place = next((i for i, (name, _) in enumerate(rows) if name == proof.parts_at), None)
    about = () if place is None else range(len(rows))[max(0, place - _BEFORE) : place + _BEHIND]
    yield Table(
        "Error by layer",
        ("value", "relative error"),
        tuple((name, f"{error:.2g}") for name, error in rows),
        ("relative error",),
        f"the files in float64, {_ORDER}",
        Detail.VERBOSE if place is None else Detail.ALWAYS,
        tuple(about),
        f"and {len(rows) - len(about)} more (--verbose)",
        tones=tuple((None, bad if error > proof.tolerance else None) for _, error in rows),
    )


def _steps(proof: Proof) -> Iterator[tuple[str, float]]:
    """Values of one name that follow each other are one."""
    for name, same in groupby(proof.steps, key=lambda step: step.name):
        yield name, max(step.error for step in same)


def _name(level: str) -> str:
    return {"torch": "torch", "reference": "float64 reference"}.get(level, f"onnxruntime {level}")


def _error(level: LevelParity) -> str:
    if level.parity is None:
        return f"cannot run it: {level.refused}"
    return f"{level.parity.max_relative_error:.2g}"
