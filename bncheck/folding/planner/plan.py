"""What a plan says: a decision for each normalisation, and what to change in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.families import Family
from bncheck.folding.planner.normalisations import Normalisation, channel_sizes

#: An operand: a call's place in `graph.ops`, and which of its inputs.
Place: TypeAlias = "tuple[int, int]"


class Status(StrEnum):
    """What becomes of a normalisation."""

    FOLDED = "folded"
    MERGED = "merged"
    REWRITTEN = "rewritten"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one normalisation call: into which calls, through which, or why not."""

    name: str
    op: str
    status: Status
    into: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""
    overflow: bool = False
    kind: Family = Family.BATCH
    module: str = ""

    @property
    def layer(self) -> str:
        """The module that is called: that of its first call, by name."""
        return self.module or self.name

    def to_dict(self) -> dict[str, object]:
        """The decision as plain data."""
        return {
            "name": self.name,
            "op": self.op,
            "kind": self.kind.value,
            "status": self.status.value,
            "into": ", ".join(self.into) or None,
            "through": list(self.through),
            "reason": ". ".join(part for part in (self.reason, self.hint) if part) or None,
        }


@dataclass(frozen=True, slots=True)
class Absorbed:
    """Maps that a call absorbs, each as two vectors over its channels.

    `before`: of its input, `after`: of its result. `beside`: a multiple of its own input and a
    shift that are added to its result. `as_shuffle`: it becomes a 1 x 1 convolution and a pixel
    shuffle (algebra.Kernel.as_tiles). `bare`: it gives up the scale and the shift that it had.
    """

    before: Affine | None = None
    after: Affine | None = None
    as_shuffle: bool = False
    beside: Affine | None = None
    bare: bool = False

    def applied_to(self, norm: Affine, sizes: Sequence[int] = ()) -> Affine:
        """The map of a normalisation with what it has absorbed of others.

        `sizes` is the shape of what it has for its channels, which usually lie on axis 1.
        """
        sizes = sizes or channel_sizes(None, norm.scale.shape)
        if self.before:
            norm = norm.after(_on_channels(self.before, sizes))
        if self.after:
            norm = _on_channels(self.after, sizes).after(norm)
        if self.beside:
            more = _on_channels(self.beside, sizes)
            norm = Affine(norm.scale + more.scale, norm.shift + more.shift)
        return norm


def _on_channels(vectors: Affine, sizes: Sequence[int]) -> Affine:
    """One number a channel as a map of a value."""
    return Affine(vectors.scale.reshape(sizes), vectors.shift.reshape(sizes))


@dataclass(frozen=True)
class Plan:
    """What to change in a graph; keys are places in `graph.ops`.

    `altered` are the values that are not what they were: those between a normalisation and where
    it went. `targets` are the calls that each normalisation, by name, went into, `edits` the
    constants that it changed, and `taken` the other calls that it took with it. `norms` are those
    that the first decisions are about.
    """

    decisions: tuple[Decision, ...] = ()
    folds: Mapping[int, Absorbed] = field(default_factory=dict)
    constants: Mapping[Place, Affine] = field(default_factory=dict)
    bypassed: frozenset[int] = frozenset()
    altered: frozenset[str] = frozenset()
    targets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    edits: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    taken: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    norms: tuple[Normalisation, ...] = ()
