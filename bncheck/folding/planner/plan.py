"""What a plan says: a decision for each normalisation, and what to change in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from bncheck.folding.algebra import Affine


class Status(str, Enum):
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

    def to_dict(self) -> dict[str, object]:
        """The decision as plain data."""
        return {
            "name": self.name,
            "op": self.op,
            "status": self.status.value,
            "into": ", ".join(self.into) or None,
            "through": list(self.through),
            "reason": ". ".join(part for part in (self.reason, self.hint) if part) or None,
        }


@dataclass(frozen=True, slots=True)
class Fold:
    """Maps that a call absorbs: one on its input channels, one on its output channels.

    `beside`: what is added to it, a multiple of its own input and a shift (planner/beside.py).

    `as_shuffle`: it becomes a 1 x 1 convolution and a pixel shuffle (algebra.tiling_as_conv).
    """

    before: Affine | None = None
    after: Affine | None = None
    as_shuffle: bool = False
    beside: Affine | None = None


@dataclass(frozen=True)
class Plan:
    """What to change in a graph; keys are places in `graph.ops`.

    `altered` are the values that are not what they were: those between a normalisation and where
    it went. `targets` are the calls that each normalisation, by name, went into.
    """

    decisions: tuple[Decision, ...] = ()
    folds: Mapping[int, Fold] = field(default_factory=dict)
    constants: Mapping[tuple[int, int], Affine] = field(default_factory=dict)
    bypassed: frozenset[int] = frozenset()
    altered: frozenset[str] = frozenset()
    targets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
