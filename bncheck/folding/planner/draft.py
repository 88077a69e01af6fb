"""A plan that is being made, and what moving a map backwards and forwards have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.dataflow import (
    Graph,
    Linear,
    Mul,
    Op,
    Shape,
)
from bncheck.folding.planner.candidates import Candidate, elementwise_map, not_constant
from bncheck.folding.planner.maps import Stuck, collapsed, settled
from bncheck.folding.planner.plan import Decision, Fold


@dataclass
class Step:
    """What one successful move changes."""

    folds: dict[int, Fold] = field(default_factory=dict)
    constants: dict[tuple[int, int], Affine] = field(default_factory=dict)
    bypassed: set[int] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    into: list[int] = field(default_factory=list)
    through: list[int] = field(default_factory=list)
    additions: list[int] = field(default_factory=list)
    pair: tuple[str | None, str | None] = (None, None)  # a pushed norm's input and output


class Draft:
    """What has been decided so far about a graph."""

    def __init__(self, graph: Graph, keep: Sequence[str], forbidden: Mapping[str, str]) -> None:
        self.graph = graph
        self.keep = keep
        self.forbidden = forbidden
        self.folds: dict[int, Fold] = {}
        self.constants: dict[tuple[int, int], Affine] = {}
        self.bypassed: set[int] = set()
        self.altered: set[str] = set()
        self.decisions: dict[int, Decision] = {}
        self.merged_into: dict[int, int] = {}
        self.dissolved: dict[int, int] = {}
        self.targets: dict[str, tuple[int, ...]] = {}
        self.units: set[int] = set()  # calls that together are one normalisation
        self.held: set[int] = set()  # calls that belong to a normalisation that must stay

    def _own_map(self, index: int, op: Op) -> tuple[int, Affine] | None:
        """x + c, x * c, c - x, x / c as a map of x, in the operand's place; else None."""
        if index in self.held:
            raise Stuck(f"it follows {op.label}, which is itself a normalisation that stays")
        found = elementwise_map(self.graph, op)
        edited = any((index, slot) in self.constants for slot in (0, 1))
        return None if found is None or edited else found

    def _commutes(self, index: int, op: Op, map_: Affine) -> bool:
        """A scale without a shift passes x * c as it is, so that c may differ by position."""
        return isinstance(op.spec, Mul) and index not in self.units and not map_.shifts

    def _fixed(self, op: Op) -> None:
        for slot in (1, 2):
            name = op.input(slot)
            if name is not None and not self.graph.is_constant(name):
                role = "weight" if slot == 1 else "bias"
                raise not_constant(self.graph, name, f"the {role} of {op.label} ({op.kind})")

    def _data_slot(self, op: Op) -> int:
        """Where a bypassed call, a normalisation or x + c or x * c, has its x."""
        return 1 if self.graph.is_constant(op.inputs[0]) else 0

    def _same_dtype(self, candidate: Candidate) -> None:
        source = self.graph.ops[candidate.first].inputs[0]
        target = self.graph.ops[candidate.last].outputs[0]
        assert source is not None
        before, after = self.graph.values[source].dtype, self.graph.values[target].dtype
        if before != after:
            raise Stuck(f"it turns {before} into {after}")


def on_channels(vectors: Affine, rank: int) -> Affine:
    """What a call has absorbed, one number a channel, as a map of a value of that rank."""
    sizes = (1, -1, *(1,) * (rank - 2))
    return Affine(vectors.scale.reshape(sizes), vectors.shift.reshape(sizes))


def channel_map(graph: Graph, op: Op, name: str | None, map_: Affine, axis: int) -> Affine:
    """A map that differs along one axis only, as two vectors of that axis' size."""
    shape: Shape | None = graph.shape(name)
    if shape is None:
        raise Stuck("the shapes around it are not known")
    axis %= len(shape)
    others = [i for i in range(len(shape)) if i != axis]
    what = "features" if isinstance(op.spec, Linear) else "channels"
    try:
        small = collapsed(map_, others, "")
    except Stuck:
        raise Stuck(
            f"its numbers do not lie on the {what} of {op.label} ({op.kind})",
            f"with a transpose between, so that it normalises the {what}, it could be folded",
        ) from None
    small = settled(small)
    size = shape[axis]
    if not isinstance(size, int):
        raise Stuck(f"the number of {what} of {op.label} ({op.kind}) is not known")
    return Affine(
        np.broadcast_to(small.scale.reshape(-1), (size,)),
        np.broadcast_to(small.shift.reshape(-1), (size,)),
    )
