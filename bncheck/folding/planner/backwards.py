"""Pulling an affine map backwards, into the calls that made its input."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bncheck.folding.algebra import Affine, identity
from bncheck.folding.planner.candidates import Candidate
from bncheck.folding.planner.commute import pull
from bncheck.folding.planner.draft import Draft, Step, channel_axis, channel_map
from bncheck.folding.planner.maps import Shared, Stuck, fitted, merged, settled
from bncheck.folding.planner.plan import Fold
from bncheck.graph.dataflow import (
    Add,
    Conv,
    ConvTranspose,
    Linear,
    Lookup,
    Mul,
    Norm,
    Op,
    Rescaled,
    Use,
)

#: Where several additions lie between, so many ways of sharing the shift among them are tried.
_MAX_ATTEMPTS = 30


class Backwards(Draft):
    """Moves against the direction of the data."""

    def _pull(self, candidate: Candidate, affine: Affine, into_norms: bool) -> Step:
        """The first way of sharing shifts among additions that works; else the first failure."""
        failure: Stuck | None = None
        seen: list[int] = []
        for choices in self._choices(seen):
            step = Step()
            try:
                self._pull_once(candidate, affine, into_norms, choices, step)
            except Stuck as stuck:
                failure = failure or stuck
                seen[:] = seen or step.additions
                continue
            return step
        assert failure is not None
        if isinstance(failure, Shared):
            raise Stuck(failure.reason, self._hint(candidate, affine, into_norms, failure))
        raise failure

    def _hint(self, candidate: Candidate, affine: Affine, into_norms: bool, shared: Shared) -> str:
        """What would help: a reader less does not where something else is in the way, too."""
        try:
            self._pull_once(candidate, affine, into_norms, {}, Step(supposed=True))
        except Stuck as stuck:
            return stuck.hint
        return shared.hint

    def _residual(self, candidate: Candidate, affine: Affine, into_norms: bool) -> Step | None:
        """f v + g norm(v) is (f + g) u with u = ((f + g a) v + g t) / (f + g): pull that into v."""
        source = self._source(candidate)
        output = self.graph.ops[candidate.last].outputs[0]
        readers = self.graph.uses.get(output, [])
        if len(readers) != 1 or output in self.graph.outputs:
            return None
        add = self.graph.ops[readers[0].op]
        slot = 1 - readers[0].slot
        if not isinstance(add.spec, Add) or not add.spec.total or readers[0].op in self.bypassed:
            return None
        beside, passed = self._origin(Use(readers[0].op, slot))
        if self.graph.ops[beside.op].inputs[beside.slot] != source:
            return None
        f, g = add.spec.factors[slot], add.spec.factors[1 - slot]
        share = Affine((f + g * affine.scale) / (f + g), g * affine.shift / (f + g))
        step = Step()
        try:
            self._pull_once(candidate, share, into_norms, {}, step, beside)
        except Stuck:
            return None
        step.altered.update([output, *passed])
        return step

    @staticmethod
    def _choices(seen: list[int]) -> Iterator[dict[int, int]]:
        yield {}
        tried = itertools.product(range(3), repeat=min(len(seen), 3))
        for combination in itertools.islice(tried, 1, _MAX_ATTEMPTS):
            yield dict(zip(seen, combination, strict=False))

    def _pull_once(
        self,
        candidate: Candidate,
        affine: Affine,
        into_norms: bool,
        choices: Mapping[int, int],
        step: Step,
        beside: Use | None = None,
    ) -> None:
        source, entry = self._source(candidate), self._entry(candidate)
        wanted: dict[str, dict[Use, Affine]] = {}
        heap: list[int] = []

        def want(value: str, use: Use, map_: Affine) -> None:
            producer = self.graph.producers.get(value)
            if producer is None:
                raise Stuck(f"its input is an input of the {self.graph.what}")
            wanted.setdefault(value, {})[use] = map_
            heapq.heappush(heap, -producer)

        self._same_dtype(candidate)
        want(source, entry, affine)
        if beside is not None:
            want(source, beside, affine)
        done = -1
        while heap:
            index = -heapq.heappop(heap)
            if index == done:
                continue
            done = index
            op = self.graph.ops[index]
            maps = [self._agreed(name, wanted.get(name), step.supposed) for name in op.outputs]
            for slot, map_ in self._inputs(index, op, maps, into_norms, choices, step):
                name = op.inputs[slot]
                assert name is not None
                want(name, Use(index, slot), map_)
            step.altered.update(op.outputs)

    def _agreed(self, name: str, wishes: Mapping[Use, Affine] | None, supposed: bool) -> Affine:
        """What all readers of a value want of it; readers that are not asked want no change."""
        uses = self.graph.uses.get(name, [])
        shape = self.graph.shape(name)
        if shape is None:
            raise Stuck("the rank of its input is not known")
        nothing = np.full((1,) * len(shape), np.nan)
        result = Affine(nothing, nothing)
        unchanged = identity(len(shape))
        wishes = wishes or {}
        for map_ in wishes.values():
            both = merged(result, map_)
            if both is None:
                raise Stuck(f"the paths that meet at {name} want different scales of it")
            result = both
        if supposed:
            return result
        if name in self.graph.outputs:
            both = merged(result, unchanged)
            if both is None:
                raise Shared(
                    f"its input is also an output of the {self.graph.what}",
                    "without that output it could be folded",
                )
            result = both
        for use in uses:
            if use not in wishes:
                both = merged(result, unchanged)
                if both is None:
                    other = self.graph.ops[self._final_reader(use.op)]
                    raise Shared(
                        f"its input is also used by {other.label} ({other.kind})",
                        f"if {other.label} read its result instead, it could be folded",
                    )
                result = both
        return result

    def _inputs(
        self,
        index: int,
        op: Op,
        maps: list[Affine],
        into_norms: bool,
        choices: Mapping[int, int],
        step: Step,
    ) -> list[tuple[int, Affine]]:
        """Absorb the maps of an operation's outputs, or say what its inputs must take."""
        spec = op.spec
        if index in self.bypassed:
            return [(self._data_slot(op), maps[0])]
        if isinstance(spec, (Conv, ConvTranspose, Linear, Lookup, Rescaled)):
            self._absorb_after(index, op, maps[0], step)
            return []
        if isinstance(spec, Norm):
            if not into_norms or index in self.held or spec.uses_batch:
                raise Stuck(f"it follows {op.label}, which is itself a normalisation that stays")
            self._absorb_after(index, op, maps[0], step)
            return []
        step.through.append(index)
        if isinstance(spec, (Add, Mul)):
            return self._elementwise(index, op, maps[0], choices, step)
        pulled = pull(self.graph, op, maps)
        for slot, map_ in enumerate(pulled):
            if self.graph.is_constant(op.inputs[slot]):
                step.constants[index, slot] = self._constant_edit(index, slot, settled(map_))
        return [
            (slot, map_)
            for slot, map_ in enumerate(pulled)
            if not self.graph.is_constant(op.inputs[slot])
        ]

    def _absorb_after(self, index: int, op: Op, map_: Affine, step: Step) -> None:
        self._fixed(op)
        axis = channel_axis(self.graph, op, 1)
        vector = channel_map(self.graph, op, op.outputs[0], map_, axis)
        fold = self.folds.get(index, Fold())
        after = vector.after(fold.after) if fold.after else vector
        step.folds[index] = replace(fold, after=after)
        step.into.append(index)

    def _elementwise(
        self, index: int, op: Op, map_: Affine, choices: Mapping[int, int], step: Step
    ) -> list[tuple[int, Affine]]:
        fixed = [self.graph.is_constant(name) for name in op.inputs[:2]]
        whole = isinstance(op.spec, Mul) or index in self.units
        if whole or (any(fixed) and choices.get(index, 0) == 0):
            own = self._own_map(index, op)
            if own is not None and self._commutes(index, op, map_):
                return [(own[0], map_)]
            if own is not None:
                step.additions.append(index)
                step.bypassed.add(index)
                return [(own[0], map_.after(own[1]))]
        if whole:
            raise Stuck(
                f"{op.label} ({op.kind}) lies between, a product of two activations",
                "before that product it could be folded",
            )
        return self._sum(index, op, map_, choices, step)

    def _sum(
        self, index: int, op: Op, map_: Affine, choices: Mapping[int, int], step: Step
    ) -> list[tuple[int, Affine]]:
        """a (x + f y) + t = (a x + t1) + f (a y + t2), t1 + f t2 = t."""
        assert isinstance(op.spec, Add)
        step.additions.append(index)
        fixed = [self.graph.is_constant(name) for name in op.inputs]
        shares = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)][choices.get(index, 0)]
        if op.inputs[0] == op.inputs[1] and op.spec.factors == (1.0, 1.0):
            shares = (0.5, 0.5)
        if any(fixed):  # choice 0 dissolves the addition
            shares = (0.0, 1.0) if fixed[0] == (choices.get(index, 0) < 2) else (1.0, 0.0)
        out = self.graph.shape(op.outputs[0])
        wishes = []
        for slot, (share, factor) in enumerate(zip(shares, op.spec.factors, strict=True)):
            shape = self.graph.shape(op.inputs[slot])
            if shape is None or out is None:
                raise Stuck("the shapes around it are not known")
            shift = map_.shift * (share / factor)
            part = Affine(fitted(map_.scale, shape, out), fitted(shift, shape, out))
            if fixed[slot]:
                whole = Affine(map_.scale, shift)
                step.constants[index, slot] = self._constant_edit(index, slot, settled(whole))
            else:
                wishes.append((slot, part))
        return wishes

    def _constant_edit(self, index: int, slot: int, map_: Affine) -> Affine:
        before = self.constants.get((index, slot))
        return map_.after(before) if before else map_
