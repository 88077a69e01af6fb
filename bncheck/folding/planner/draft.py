"""A plan that is being made: what has been decided so far, and what one more move would change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.planner.normalisations import (
    Normalisation,
    channel_sizes,
    data_slot,
    elementwise_map,
)
from bncheck.folding.planner.plan import Absorbed, Place
from bncheck.graph.dataflow import Graph, Use
from bncheck.graph.specs import Identity, Mul, Norm


@dataclass
class Step:
    """What one successful move changes; calls are their places in the graph.

    `into` are the calls that absorb the map and `through` those that it passes, in the order in
    which they are met; `bypassed` are those that it takes with it. `altered` are the values that
    will no longer be what they were. `stored` are the parameters that it changes by themselves.
    `remark` is what a user should know beside that.
    """

    folds: dict[int, Absorbed] = field(default_factory=dict)
    constants: dict[Place, Affine] = field(default_factory=dict)
    bypassed: set[int] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    into: list[int] = field(default_factory=list)
    through: list[int] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    remark: str = ""


@dataclass(frozen=True)
class Moving:
    """A normalisation that looks for a place: the values around it, and its map.

    The map includes what the normalisation has taken over from others.
    """

    norm: Normalisation
    affine: Affine
    entry: Use
    source: str
    output: str


@dataclass(frozen=True)
class Draft:
    """What has been decided so far about a graph.

    `units` are the calls that are a normalisation only together, `held` those of normalisations
    that must stay.
    """

    graph: Graph
    units: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()
    folds: Mapping[int, Absorbed] = field(default_factory=dict)
    constants: Mapping[Place, Affine] = field(default_factory=dict)
    bypassed: frozenset[int] = frozenset()
    altered: frozenset[str] = frozenset()

    def after(self, norm: Normalisation, step: Step) -> Draft:
        """The draft with that normalisation moved."""
        folds = {**self.folds, **step.folds}
        if not norm.bare:
            folds.pop(norm.last, None)
        elif norm.last not in step.folds:  # the affine is gone, the call stays
            folds[norm.last] = Absorbed(bare=True)
        bypassed = self.bypassed | step.bypassed | set(() if norm.bare else norm.ops)
        constants = {**self.constants, **step.constants}
        constants = {
            place: edit
            for place, edit in constants.items()
            if place[0] not in bypassed or self._is_stored(place)
        }
        # What comes out of the normalisation itself is from now on what comes in, and as it was.
        inner = {name for index in norm.ops[:-1] for name in self.graph.ops[index].outputs}
        return replace(
            self,
            folds=folds,
            constants=constants,
            bypassed=bypassed,
            altered=self.altered | step.altered | inner,
        )

    def moving(self, norm: Normalisation, own: Affine) -> Moving:
        """A normalisation with its own map, ready to move."""
        op = self.graph.ops[norm.first]
        entry = Use(norm.first, data_slot(self.graph, op))  # in c * x, x does not stand first
        source = op.inputs[entry.slot]
        assert source is not None
        output = self.graph.ops[norm.last].outputs[0]
        sizes = channel_sizes(op.spec, np.broadcast_shapes(own.scale.shape, own.shift.shape))
        affine = self.fold(norm.last).applied_to(own, sizes)
        return Moving(norm, affine, entry, source, output)

    def fold(self, index: int) -> Absorbed:
        """What a call has absorbed."""
        return self.folds.get(index, Absorbed())

    def _is_stored(self, place: Place) -> bool:
        """Whether an operand is stored numbers that are normalised."""
        index, slot = place
        return slot == 0 and isinstance(self.graph.ops[index].spec, Norm)

    def can_take_over(self, index: int) -> bool:
        """Whether a normalisation may absorb others."""
        spec = self.graph.ops[index].spec
        return isinstance(spec, Norm) and not spec.uses_batch and index not in self.held

    def own_map(self, index: int) -> tuple[int, Affine] | None:
        """x + c, x * c, c - x, x / c as a map of x, with the operand that is x; else None."""
        op = self.graph.ops[index]
        if index in self.held:
            raise Stuck(f"it follows {op.label}, which is itself a normalisation that stays")
        edits = [self.constants[index, slot] for slot in (0, 1) if (index, slot) in self.constants]
        return elementwise_map(self.graph, op, *edits)

    def commutes(self, index: int, map_: Affine) -> bool:
        """Whether a map passes x * c as it is: a (c x) = c (a x), whatever c is at each place."""
        is_product = isinstance(self.graph.ops[index].spec, Mul) and index not in self.units
        return is_product and not map_.shifts

    def edited(self, place: Place, map_: Affine) -> Affine:
        """A change of a constant, behind those that were made before."""
        before = self.constants.get(place)
        return map_.after(before) if before else map_

    def final_reader(self, index: int) -> int:
        """Who reads a value instead of a call that is bypassed, or changes nothing."""
        op = self.graph.ops[index]
        uses = self.graph.uses.get(op.outputs[0], []) if op.outputs else []
        idle = isinstance(op.spec, Identity) and len(uses) == 1
        passes = bool(uses) and (index in self.bypassed or idle)
        return self.final_reader(uses[0].op) if passes else index

    def onward(self, name: str) -> list[str]:
        """A value, and those that are the same because all that reads it changes nothing."""
        graph, uses = self.graph, self.graph.uses.get(name, [])
        alone = len(uses) == 1 and name not in graph.outputs
        if not alone or not isinstance(graph.ops[uses[0].op].spec, Identity):
            return [name]
        return [name, *self.onward(graph.ops[uses[0].op].outputs[0])]

    def origin(self, use: Use) -> tuple[Use, list[str]]:
        """The use before all calls on the way to this one that change nothing, or are bypassed, and
        their results."""
        graph = self.graph
        name = graph.ops[use.op].inputs[use.slot]
        index = graph.producers.get(name or "")
        alone = name not in graph.outputs and len(graph.uses.get(name or "", [])) == 1
        if name is None or index is None or not alone:
            return use, []
        if index not in self.bypassed and not isinstance(graph.ops[index].spec, Identity):
            return use, []
        before, passed = self.origin(Use(index, data_slot(graph, graph.ops[index])))
        return before, [name, *passed]


def check_dtype(graph: Graph, moving: Moving) -> None:
    """A normalisation that casts cannot go: without it, its readers would get another dtype."""
    before, after = graph.values[moving.source].dtype, graph.values[moving.output].dtype
    if not before or not after:
        raise Stuck(
            "the dtype of its input or its result is not known",
            "export it with the types of all values",
        )
    if before != after:
        raise Stuck(f"it turns {before} into {after}", "cast before it or behind it, not in it")
