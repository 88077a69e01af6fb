"""A normalisation beside a linear call that reads the same value, both added up.

    conv(x) + (a x + t) = conv'(x) + x

with conv'(x) = conv(x) + (a - 1) x + t: the weights of conv and a diagonal, at the place of the
kernel that reads the very position of the output. So RepVGG's identity branch goes. Two
normalisations of one value become one in the same way.
"""

from __future__ import annotations

from dataclasses import replace

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.candidates import Candidate
from bncheck.folding.planner.draft import Draft, Step, channel_axis, channel_map
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.planner.plan import Fold
from bncheck.graph.dataflow import Add, Conv, Linear, Norm, Op


class Beside(Draft):
    """Moves into a call on another branch; behind one into a linear call, no other may follow."""

    def _put_beside(self, candidate: Candidate, affine: Affine, into_norms: bool) -> Step:
        """Down the additions that the result goes into, until a branch can take it over."""
        source = self._source(candidate)
        self._same_dtype(candidate)
        mean = self.graph.ops[candidate.first].input(3)
        if mean is not None and len(self.graph.uses.get(mean, [])) > 1:
            raise Stuck("it is called elsewhere, too, and so no branch of its own")
        step = Step()
        value, factor = self.graph.ops[candidate.last].outputs[0], 1.0
        while (index := self._only_reader(value)) is not None:
            add = self.graph.ops[index]
            if not isinstance(add.spec, Add) or index in self.bypassed:
                break
            step.altered.add(value)
            step.through.append(index)
            slot = add.inputs.index(value)
            factor *= add.spec.factors[slot]
            other, own = add.inputs[1 - slot], add.spec.factors[1 - slot]
            path = self._branch(other, source, own, into_norms)
            if path is not None:
                self._absorb(path, affine, factor, step)
                return step
            value = add.outputs[0]
        raise Stuck("no other branch of a sum can take it over")

    def _only_reader(self, value: str) -> int | None:
        uses = self.graph.uses.get(value, [])
        return uses[0].op if len(uses) == 1 and value not in self.graph.outputs else None

    def _branch(
        self, value: str | None, source: str, factor: float, into_norms: bool
    ) -> tuple[list[int], float] | None:
        """The calls from a branch's end up to one that can take it, and what multiplies that."""
        index = self.graph.producers.get(value or "")
        if value is None or index is None or self._only_reader(value) is None:
            return None
        op = self.graph.ops[index]
        if self._fits(index, op, source, into_norms):
            return [index], factor
        inputs: list[tuple[str | None, float]] = []
        if index in self.bypassed:
            inputs = [(op.inputs[self._data_slot(op)], 1.0)]
        elif isinstance(op.spec, Add):
            inputs = list(zip(op.inputs, op.spec.factors, strict=True))
        for name, own in inputs:
            found = self._branch(name, source, factor * own, into_norms)
            if found is not None:
                return [index, *found[0]], found[1]
        return None

    def _fits(self, index: int, op: Op, source: str, into_norms: bool) -> bool:
        if into_norms:
            free = isinstance(op.spec, Norm) and not op.spec.uses_batch
            return free and op.inputs[0] == source and not {index} & (self.held | self.bypassed)
        centred = isinstance(op.spec, Linear) and op.spec.axes[0] == op.spec.axes[1]
        centred |= isinstance(op.spec, Conv) and op.spec.centre is not None
        fold = self.folds.get(index, Fold())
        constant = all(name is None or self.graph.is_constant(name) for name in op.inputs[1:3])
        same = self.graph.shape(op.outputs[0]) == self.graph.shape(source)
        return centred and constant and same and op.inputs[0] == source and not fold.before

    def _absorb(
        self, path: tuple[list[int], float], affine: Affine, factor: float, step: Step
    ) -> None:
        (*between, index), own = path
        op = self.graph.ops[index]
        axis = channel_axis(self.graph, op, 1)
        vector = channel_map(self.graph, op, op.outputs[0], affine, axis)
        share = factor / own
        scale, shift = share * (vector.scale - 1.0), share * vector.shift
        fold = self.folds.get(index, Fold())
        if fold.beside:
            scale, shift = fold.beside.scale + scale, fold.beside.shift + shift
        step.folds[index] = replace(fold, beside=Affine(scale, shift))
        step.into.append(index)
        step.altered.update(n for i in (*between, index) for n in self.graph.ops[i].outputs)
