"""Pulling a map against the direction of the data, into the calls that made its input.

docs/folding.md, "Pull" and "Sums". A walk starts with what one reader wants of a value; a value is
reached once all its readers were asked, since calls are visited from the last to the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from bncheck.folding.algebra import Affine, identity, unconstrained
from bncheck.folding.planner.absorbing import absorbed_after
from bncheck.folding.planner.bystanders import bystander
from bncheck.folding.planner.computed import (
    computed,
    has_computed_weight,
    shares_of_operands,
)
from bncheck.folding.planner.draft import Draft, Step
from bncheck.folding.planner.identity import Identity, identity_in, make_up
from bncheck.folding.planner.maps import (
    UNKNOWN,
    Stuck,
    before_repeating,
    in_one_shape,
    merged,
    settled,
    shapes_of,
    spreads,
    unfit,
)
from bncheck.folding.planner.normalisations import Slot, data_slot, no_map, not_made
from bncheck.folding.planner.passing import pulled_through
from bncheck.folding.planner.sums import (
    ConstantWay,
    Factor,
    Shift,
    Way,
    Ways,
    shares_of,
)
from bncheck.graph.dataflow import Op, Use
from bncheck.graph.specs import (
    Add,
    Mul,
    Norm,
    Rescaled,
)
from bncheck.graph.weighted import Weighted

_BROADCAST = "an operand of the addition before it is broadcast over its channels"
_REPEATED = "an operand of the product before it is broadcast over its channels"
#: A slot of a call, and the map that the value in it must take.
Wish: TypeAlias = "tuple[int, Affine]"


@dataclass
class Walk:
    """One walk against the data, with one way for each addition.

    `alone`: a value that is taken to have no other readers. `sums` are the additions met, with the
    ways that they have; `wanted` is what the readers of each value want it to take; `computed` is
    why the first call with a computed weight takes no map by itself; `identities` are the summands
    that stay as they are, with the maps of their sums.
    """

    draft: Draft
    into_norms: bool
    ways: Ways = field(default_factory=dict)
    alone: str = ""
    with_identity: bool = False
    step: Step = field(default_factory=Step)
    sums: dict[int, type[Way]] = field(default_factory=dict)
    wanted: dict[str, dict[Use, Affine]] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)
    computed: Stuck | None = None
    identities: list[tuple[Identity, Affine]] = field(default_factory=list)
    source: str = ""

    def run(self, source: str, wishes: Mapping[Use, Affine]) -> Step:
        """What must change so that `source` takes the maps that these readers want of it."""
        self.source = source
        for use, map_ in wishes.items():
            self._want(source, use, map_)
        while self.pending:
            index = max(self.pending)
            self.pending.remove(index)
            op = self.draft.graph.ops[index]
            maps = [self._agreed(name) for name in op.outputs]
            for slot, map_ in self._visit(index, op, maps):
                name = op.inputs[slot]
                assert name is not None
                self._want(name, Use(index, slot), map_)
            # A LayerNorm may also return its mean, which its affine does not change.
            of_affine = isinstance(op.spec, Rescaled)
            self.step.altered.update(op.outputs[:1] if of_affine else op.outputs)
        for found, map_ in self.identities:
            make_up(self.draft, self.step, found, map_)
        return self.step

    def _want(self, value: str, use: Use, map_: Affine) -> None:
        graph = self.draft.graph
        producer = graph.producers.get(value)
        if producer is None and graph.is_constant(value):
            self._edit((use.op, use.slot), map_)
            self.step.stored.append(graph.values[value].label or value)
            return
        if producer is None:
            label = graph.values[value].label or value
            alone = value == self.source
            what = "its input" if alone else f"{label}, which would have to change with it,"
            raise not_made(graph, value, what)
        self.wanted.setdefault(value, {})[use] = map_
        self.pending.add(producer)

    def _agreed(self, name: str) -> Affine:
        """What all readers of a value want of it; readers that were not asked want no change."""
        shape = self.draft.graph.shape(name)
        if shape is None:
            raise Stuck("the rank of its input is not known", UNKNOWN)
        first, *others = self.wanted.get(name, {}).values() or [unconstrained(len(shape))]
        result = Affine(*in_one_shape(first))
        for map_ in others:
            both = merged(result, map_)
            if both is None:
                alike = merged(*(Affine(m.scale, 0.0 * m.scale) for m in (result, map_)))
                maker = self.draft.graph.ops[self.draft.graph.producers[name]]
                raise Stuck(
                    f"the paths that meet behind {maker.called} need different "
                    f"{'shifts' if alike else 'scales'} of its result"
                )
            result = both
        alone = name == self.alone
        other = None if alone else bystander(self.draft, name, self.source, self.wanted)
        if other is None:
            return result
        both = merged(result, identity(len(shape)))
        if both is None:
            raise other
        return both

    def _visit(self, index: int, op: Op, maps: list[Affine]) -> list[Wish]:
        """Let a call absorb the maps of its results, or say what its inputs must take."""
        spec, graph = op.spec, self.draft.graph
        if index in self.draft.bypassed:
            return [(data_slot(graph, op), maps[0])]
        takes = isinstance(spec, Norm) and (
            spec.rescales or (self.into_norms and self.draft.can_take_over(index))
        )
        if isinstance(spec, Norm) and not takes:
            raise Stuck(f"it follows {op.label}, which is itself a normalisation that stays")
        if has_computed_weight(graph, op):
            return self._into_operands(index, op, maps[0])
        if isinstance(spec, Weighted) and spec.takes_result:
            self.step.folds[index] = absorbed_after(self.draft, index, maps[0])
            self.step.into.append(index)
            return []
        self.step.through.append(index)
        if isinstance(spec, (Add, Mul)):
            return self._elementwise(index, op, maps[0])
        wishes = []
        for slot, map_ in enumerate(pulled_through(graph, op, maps)):
            if graph.is_constant(op.inputs[slot]):
                self._edit((index, slot), map_)
            else:
                wishes.append((slot, map_))
        return wishes

    def _into_operands(self, index: int, op: Op, map_: Affine) -> list[Wish]:
        """What makes a weight takes the scale, and what makes the bias the shift, too."""
        graph, shares = self.draft.graph, shares_of_operands(self.draft, index, map_)
        self.computed = self.computed or computed(graph, op)
        wishes = [(int(Slot.WEIGHT), shares.weight)]
        if shares.own is not None:
            self.step.folds[index] = shares.own
            self.step.into.append(index)
            return wishes
        self.step.through.append(index)
        bias = op.input(Slot.BIAS)
        if graph.is_constant(bias):
            self._edit((index, Slot.BIAS), shares.bias)
        elif bias is not None:
            wishes.append((Slot.BIAS, shares.bias))
        return wishes

    def _elementwise(self, index: int, op: Op, map_: Affine) -> list[Wish]:
        is_unit = isinstance(op.spec, Mul) or index in self.draft.units
        fixed = any(self.draft.graph.is_constant(name) for name in op.inputs[:2])
        absorbs = fixed and self.ways.get(index, ConstantWay.ABSORBED) is ConstantWay.ABSORBED
        own = self.draft.own_map(index) if is_unit or absorbs else None
        if own is not None and self.draft.commutes(index, map_):
            return [(own[0], map_)]
        if own is not None:
            if not is_unit:
                self.sums[index] = ConstantWay
            self.step.bypassed.add(index)
            return [(own[0], map_.after(own[1]))]
        return self._product(index, op, map_, fixed) if is_unit else self._sum(index, op, map_)

    def _product(self, index: int, op: Op, map_: Affine, fixed: bool) -> list[Wish]:
        """A scale goes into one operand."""
        if fixed:
            return self._into_constant(index, op, map_)
        divides = isinstance(op.spec, Mul) and op.spec.divides
        if map_.shifts or index in self.draft.units:
            what = "quotient" if divides else "product"
            raise Stuck(
                f"{op.called} lies between, a {what} of two activations, which no shift passes"
            )
        if not divides:
            self.sums[index] = Factor
        way = self.ways.get(index)
        slot = way.value if isinstance(way, Factor) else 0
        shapes = shapes_of(self.draft.graph, op.inputs[slot], op.outputs[0])
        return [(slot, before_repeating(map_, *shapes, _REPEATED))]

    def _into_constant(self, index: int, op: Op, map_: Affine) -> list[Wish]:
        """a (c x) = (a c) x, a (c / x) = (a c) / x, a (x / c) = x / (c / a), where c repeats x."""
        graph, slot = self.draft.graph, int(self.draft.graph.is_constant(op.inputs[1]))
        shapes = (graph.shape(name) or () for name in (op.inputs[slot], op.outputs[0]))
        scale = settled(map_).scale
        divides = isinstance(op.spec, Mul) and op.spec.divides and slot == 1
        unfit = map_.shifts or not spreads(*shapes) or (divides and not np.all(scale))
        if unfit or index in self.draft.units:
            raise no_map(graph, op)
        self.step.through.remove(index)
        self.step.into.append(index)
        self._edit((index, slot), Affine(1.0 / scale if divides else scale, np.zeros_like(scale)))
        return []

    def _sum(self, index: int, op: Op, map_: Affine) -> list[Wish]:
        """docs/folding.md, "Sums"."""
        assert isinstance(op.spec, Add)
        graph = self.draft.graph
        found = identity_in(self.draft, index) if self.with_identity else None
        if found is not None:
            self.identities.append((found, map_))
            shift = map_.shift / op.spec.factors[1 - found.slot]
            return [(1 - found.slot, Affine(map_.scale, shift))]
        fixed = [graph.is_constant(name) for name in op.inputs]
        self.sums[index] = ConstantWay if any(fixed) else Shift
        wishes = []
        shares = shares_of(op, op.spec, fixed, self.ways.get(index))
        for slot, (share, factor) in enumerate(zip(shares, op.spec.factors, strict=True)):
            part = Affine(map_.scale, map_.shift * (share / factor))
            if fixed[slot]:
                if not spreads(
                    graph.shape(op.inputs[slot]) or (), graph.shape(op.outputs[0]) or ()
                ):
                    raise unfit(op)
                self._edit((index, slot), part)
            else:
                shapes = shapes_of(graph, op.inputs[slot], op.outputs[0])
                wishes.append((slot, before_repeating(part, *shapes, _BROADCAST)))
        return wishes

    def _edit(self, place: tuple[int, int], map_: Affine) -> None:
        self.step.constants[place] = self.draft.edited(place, settled(map_))
