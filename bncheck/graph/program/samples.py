"""Convolutions of all samples at once, as groups each of their own: CondConv and its like.

    conv(x [N, C, ...] as [1, N C, ...], weight [N O, C, ...], groups N)  as [N, O, ...]

Where the number of samples is free, an axis of N O channels has no known size. All that is done
with these values is to give them another shape, so they are shown with N as an axis of its own.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from bncheck.graph.convolutions import multiple
from bncheck.graph.dataflow import Graph, Op, Shape, Value
from bncheck.graph.specs import Conv, Opaque, Reshape, Transpose


def with_samples_apart(
    ops: Sequence[Op], values: MutableMapping[str, Value], outputs: frozenset[str]
) -> list[Op]:
    """The calls with such convolutions as those of each sample, opaque where more is done with what
    they read or make; the shapes of these values are changed in place."""
    graph, new = Graph(tuple(ops), values, outputs), list(ops)
    for index, op in enumerate(ops):
        if not isinstance(op.spec, Conv) or not op.spec.samples:
            continue
        around = _Surroundings(graph, op.spec.samples)
        if not around.hold(index):
            new[index] = replace(op, spec=Opaque(op.kind))
            continue
        for name, shape in around.shapes.items():
            values[name] = replace(values[name], shape=shape)
        for place in around.moved:
            new[place] = replace(ops[place], spec=Reshape())
    return new


@dataclass
class _Surroundings:
    """The values around such a call: the shapes that they get, and the calls that only move an
    axis of size 1, which is to give them another shape as well."""

    graph: Graph
    samples: str
    shapes: dict[str, Shape] = field(default_factory=dict)
    moved: list[int] = field(default_factory=list)

    def hold(self, index: int) -> bool:
        """Whether nothing is done with what the call reads and makes but to reshape it."""
        op = self.graph.ops[index]
        reads = [name for name in op.inputs[:3] if name is not None]
        return all(self._is_reshaped(name, index) and self._note(name) for name in reads) and (
            self._is_made(op.outputs[0])
        )

    def _is_reshaped(self, name: str, reader: int) -> bool:
        """Whether a value is another one in another shape, and is read by that call alone."""
        graph, maker = self.graph, self.graph.producers.get(name)
        uses = {use.op for use in graph.uses.get(name, [])}
        reshaped = maker is not None and isinstance(graph.ops[maker].spec, Reshape)
        return reshaped and uses == {reader} and name not in graph.outputs

    def _is_made(self, name: str) -> bool:
        """Whether a result is only given another shape."""
        if name in self.graph.outputs or not self._note(name):
            return False
        for use in self.graph.uses.get(name, []):
            reader = self.graph.ops[use.op]
            if isinstance(reader.spec, Transpose):
                shape = self.graph.shape(name) or ()
                kept = [axis for axis in reader.spec.order if shape[axis] != 1]
                self.moved.append(use.op)
                if kept != sorted(kept) or not self._is_made(reader.outputs[0]):
                    return False
            elif not isinstance(reader.spec, Reshape):
                return False
        return True

    def _note(self, name: str) -> bool:
        """Note a value's shape with the samples as an axis of its own, where it has one such."""
        shape = self.graph.shape(name) or ()
        pairs = [(axis, multiple(size)) for axis, size in enumerate(shape) if size != 1]
        own = [(axis, pair[0]) for axis, pair in pairs if pair and pair[1] == self.samples]
        if len(own) != 1:
            return False
        ((axis, channels),) = own
        before = shape[:axis] if shape[:axis] != (1,) else ()
        self.shapes[name] = (*before, self.samples, channels, *shape[axis + 1 :])
        return True
