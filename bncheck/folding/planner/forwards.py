"""Pushing an affine map forwards, into all calls that read it."""

from __future__ import annotations

import heapq
from dataclasses import replace

from bncheck.folding.algebra import Affine, identity
from bncheck.folding.planner.candidates import Candidate
from bncheck.folding.planner.commute import push
from bncheck.folding.planner.draft import Draft, Step, channel_axis, channel_map
from bncheck.folding.planner.maps import Stuck, merged
from bncheck.folding.planner.plan import Fold
from bncheck.graph.dataflow import (
    Add,
    Conv,
    ConvTranspose,
    Linear,
    Mul,
    Norm,
    Op,
    Use,
)


class Forwards(Draft):
    """Moves in the direction of the data."""

    def _push(self, candidate: Candidate, affine: Affine, into_norms: bool) -> Step:
        self._same_dtype(candidate)
        output = self.graph.ops[candidate.last].outputs[0]
        step = Step(pair=(self._source(candidate), output))
        carried: dict[str, Affine] = {output: affine}
        heap = self._readers(output)
        if not heap:
            raise Stuck("nothing reads it")
        done = -1
        while heap:
            index = heapq.heappop(heap)
            if index == done:
                continue
            done = index
            op = self.graph.ops[index]
            given = {s: carried[n] for s, n in enumerate(op.inputs) if n in carried}
            for name, map_ in self._results(index, op, given, into_norms, step):
                carried[name] = map_
                for reader in self._readers(name):
                    heapq.heappush(heap, reader)
        step.altered.update(carried)
        return step

    def _readers(self, name: str) -> list[int]:
        if name in self.graph.outputs:
            raise Stuck(f"its result is an output of the {self.graph.what}")
        return sorted({use.op for use in self.graph.uses.get(name, [])})

    def _results(
        self, index: int, op: Op, given: dict[int, Affine], into_norms: bool, step: Step
    ) -> list[tuple[str, Affine]]:
        spec = op.spec
        if index in self.bypassed:
            return [(op.outputs[0], given[self._data_slot(op)])]
        if isinstance(spec, (Conv, ConvTranspose, Linear, Norm)):
            self._absorb_before(index, op, given, into_norms, step)
            return []
        step.through.append(index)
        if isinstance(spec, (Add, Mul)):
            return [(op.outputs[0], self._push_elementwise(index, op, given, step))]
        # The mask of an idle Dropout is an output that no map reaches.
        return list(zip(op.outputs, push(self.graph, op, given), strict=False))

    def _absorb_before(
        self, index: int, op: Op, given: dict[int, Affine], into_norms: bool, step: Step
    ) -> None:
        spec = op.spec
        if set(given) != {0}:
            raise Stuck(f"it is a weight of {op.label} ({op.kind})")
        if isinstance(spec, Norm) and (not into_norms or index in self.held or spec.uses_batch):
            raise Stuck(f"{op.label} follows, itself a normalisation that stays")
        self._fixed(op)
        axis = channel_axis(self.graph, op, 0)
        vector = channel_map(self.graph, op, op.inputs[0], given[0], axis)
        fold = self.folds.get(index, Fold())
        before = fold.before.after(vector) if fold.before else vector
        shuffles = fold.as_shuffle
        if before.shifts:
            shuffles |= _check_shift(op)
        step.folds[index] = replace(fold, before=before, as_shuffle=shuffles)
        step.into.append(index)

    def _push_elementwise(self, index: int, op: Op, given: dict[int, Affine], step: Step) -> Affine:
        own = self._own_map(index, op)
        if own is not None and self._commutes(index, op, given[own[0]]):
            return given[own[0]]
        if own is not None:
            step.bypassed.add(index)
            return own[1].after(given[own[0]])
        if isinstance(op.spec, Mul):
            raise Stuck(f"{op.label} ({op.kind}) multiplies it with another activation")
        assert isinstance(op.spec, Add)
        uses = [self._origin(Use(index, slot))[0] for slot in (0, 1)]
        summands = {self.graph.ops[use.op].inputs[use.slot] for use in uses}
        if summands == set(step.pair) and op.spec.total:
            # f x + g (a x + t) = (f + g a) / (f + g) * (f + g) x + g t
            ((slot, map_),) = given.items()
            f, g = op.spec.factors[1 - slot], op.spec.factors[slot]
            return Affine((f + g * map_.scale) / (f + g), g * map_.shift)
        return self._push_sum(op, given)

    def _push_sum(self, op: Op, given: dict[int, Affine]) -> Affine:
        assert isinstance(op.spec, Add)
        out = self.graph.shape(op.outputs[0])
        shapes = [self.graph.shape(name) for name in op.inputs]
        if out is None or any(shape != out for shape in shapes):
            raise Stuck(f"{op.label} ({op.kind}) broadcasts it")
        one = identity(len(out))
        maps = [given.get(slot, one) for slot in (0, 1)]
        scales = merged(Affine(maps[0].scale, one.shift), Affine(maps[1].scale, one.shift))
        if scales is None:
            raise Stuck(
                f"{op.label} ({op.kind}) adds it to an activation that has not the same scale"
            )
        first, second = op.spec.factors
        return Affine(maps[0].scale, first * maps[0].shift + second * maps[1].shift)


def _check_shift(op: Op) -> bool:
    """Whether a shift before this call needs it to become a convolution and a pixel shuffle."""
    spec = op.spec
    if isinstance(spec, Conv) and spec.pads_with_zeros:
        raise Stuck(
            f"{op.label} ({op.kind}) pads with zeros, which its shift does not reach",
            "no padding, or padding_mode='reflect', would let it be folded",
        )
    if isinstance(spec, ConvTranspose):
        if not spec.tiles:
            raise Stuck(
                f"the windows of {op.label} ({op.kind}) overlap or are cut, so its shift would "
                "not reach every output alike",
                "a kernel_size equal to the stride, without padding, would let it be folded",
            )
        return any(step != 1 for step in spec.stride)
    return False
