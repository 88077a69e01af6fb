"""A plan that is being made, and what moving a map backwards and forwards have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.candidates import Candidate, elementwise_map, not_constant
from bncheck.folding.planner.maps import Stuck, collapsed, settled
from bncheck.folding.planner.plan import Decision, Fold
from bncheck.graph.dataflow import (
    Conv,
    ConvTranspose,
    Graph,
    Linear,
    Lookup,
    Mul,
    Op,
    Rescaled,
    Shape,
    Use,
)


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
    supposed: bool = False  # as if nobody else read what changes
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

    def _final_reader(self, index: int) -> int:
        """Who reads a value instead of a call that is bypassed."""
        uses = self.graph.uses.get(self.graph.ops[index].outputs[0], [])
        return self._final_reader(uses[0].op) if index in self.bypassed and uses else index

    def _origin(self, use: Use) -> tuple[Use, list[str]]:
        """The use before all calls that are bypassed on the way to this one, and their results."""
        name = self.graph.ops[use.op].inputs[use.slot]
        index = self.graph.producers.get(name or "")
        alone = name not in self.graph.outputs and len(self.graph.uses.get(name or "", [])) == 1
        if name is None or index is None or index not in self.bypassed or not alone:
            return use, []
        before, passed = self._origin(Use(index, self._data_slot(self.graph.ops[index])))
        return before, [name, *passed]

    def _entry(self, candidate: Candidate) -> Use:
        """Where a normalisation reads its input, which in c * x is not what stands first."""
        return Use(candidate.first, self._data_slot(self.graph.ops[candidate.first]))

    def _source(self, candidate: Candidate) -> str:
        """The value that a normalisation reads."""
        entry = self._entry(candidate)
        source = self.graph.ops[entry.op].inputs[entry.slot]
        assert source is not None
        return source

    def _same_dtype(self, candidate: Candidate) -> None:
        source = self._source(candidate)
        target = self.graph.ops[candidate.last].outputs[0]
        before, after = self.graph.values[source].dtype, self.graph.values[target].dtype
        if before != after:
            raise Stuck(f"it turns {before} into {after}")


def with_merged(affine: Affine, fold: Fold) -> Affine:
    """A normalisation's own map with what it has taken over from others."""
    rank = affine.scale.ndim
    if fold.before:
        affine = affine.after(on_channels(fold.before, rank))
    if fold.after:
        affine = on_channels(fold.after, rank).after(affine)
    if fold.beside:
        more = on_channels(fold.beside, rank)
        affine = Affine(affine.scale + more.scale, affine.shift + more.shift)
    return affine


def on_channels(vectors: Affine, rank: int) -> Affine:
    """What a call has absorbed, one number a channel, as a map of a value of that rank."""
    sizes = (1, -1, *(1,) * (rank - 2)) if rank > 1 else (-1,)
    return Affine(vectors.scale.reshape(sizes), vectors.shift.reshape(sizes))


def channel_axis(graph: Graph, op: Op, side: int) -> int:
    """Where a call has its channels, from the end: of its input (side 0) or its result (side 1)."""
    if isinstance(op.spec, Linear):
        return op.spec.axes[side]
    if isinstance(op.spec, Lookup):
        return -1
    if isinstance(op.spec, Rescaled):
        return op.spec.axis
    weight = graph.shape(op.inputs[1]) if isinstance(op.spec, (Conv, ConvTranspose)) else None
    rank = len(weight or graph.shape(op.outputs[0]) or ())
    return 1 - rank  # a convolution takes an image without a batch, too


def channel_map(graph: Graph, op: Op, name: str | None, map_: Affine, axis: int) -> Affine:
    """A map that differs along one axis only, as two vectors of that axis' size."""
    shape: Shape | None = graph.shape(name)
    if shape is None:
        raise Stuck("the shapes around it are not known")
    axis %= len(shape)
    others = [i for i in range(len(shape)) if i != axis]
    what = "features" if isinstance(op.spec, (Linear, Lookup)) else "channels"
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
