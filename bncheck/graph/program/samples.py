"""Convolutions of all samples at once, as groups each of their own: CondConv and its like.

    conv(x [N, C, ...] as [1, N C, ...], weight [N O, C, ...], groups N)  as [N, O, ...]

Where the number of samples is free, an axis of N O channels has no known size. All that is done
with these values is to give them another shape, so they are shown with N as an axis of its own.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import replace

from bncheck.graph.convolutions import multiple
from bncheck.graph.dataflow import Graph, Op, Shape, Value
from bncheck.graph.specs import Conv, Opaque, Reshape, Transpose

def with_samples_apart(
    ops: Sequence[Op], values: MutableMapping[str, Value], outputs: frozenset[str]
) -> list[Op]:
    """The calls with such convolutions as those of each sample, opaque where more is done with what
    they read or make; the shapes of these values are changed in place."""
    if not any(isinstance(op.spec, Conv) and op.spec.samples for op in ops):
        return list(ops)
    graph, new = Graph(tuple(ops), values, outputs), list(ops)
    for index, op in enumerate(ops):
        if isinstance(op.spec, Conv) and op.spec.samples:
            _set_apart(graph, index, op, op.spec.samples, new, values)
    return new


def _set_apart(
    graph: Graph, index: int, op: Op, samples: str, new: list[Op], values: MutableMapping[str, Value]
) -> None:
    shapes: dict[str, Shape] = {}
    moved: list[int] = []
    reads = all(
        name is None or _is_reshaped(graph, name, index) and _apart(graph, name, samples, shapes)
        for name in op.inputs[:3]
    )
    if reads and _is_made(graph, op.outputs[0], samples, shapes, moved):
        for name, shape in shapes.items():
            values[name] = replace(values[name], shape=shape)
        for place in moved:
            new[place] = replace(graph.ops[place], spec=Reshape())
    else:
        new[index] = replace(op, spec=Opaque(op.kind))


def _is_reshaped(graph: Graph, name: str, reader: int) -> bool:
    """Whether a value is another one in another shape, and is read by that call alone."""
    maker = graph.producers.get(name)
    uses = {use.op for use in graph.uses.get(name, [])}
    reshaped = maker is not None and isinstance(graph.ops[maker].spec, Reshape)
    return reshaped and uses == {reader} and name not in graph.outputs


def _is_made(
    graph: Graph, name: str, samples: str, shapes: dict[str, Shape], moved: list[int]
) -> bool:
    """Whether a result is only given another shape; an axis of size 1 may change its place."""
    if name in graph.outputs or not _apart(graph, name, samples, shapes):
        return False
    for use in graph.uses.get(name, []):
        reader = graph.ops[use.op]
        if isinstance(reader.spec, Transpose):
            kept = [axis for axis in reader.spec.order if (graph.shape(name) or ())[axis] != 1]
            if kept != sorted(kept):
                return False
            moved.append(use.op)
            if not _is_made(graph, reader.outputs[0], samples, shapes, moved):
                return False
        elif not isinstance(reader.spec, Reshape):
            return False
    return True


def _apart(graph: Graph, name: str, samples: str, shapes: dict[str, Shape]) -> bool:
    """Note the shape of a value with the samples as an axis of its own, where it has one such."""
    shape = graph.shape(name) or ()
    found = [(axis, multiple(size)) for axis, size in enumerate(shape) if not isinstance(size, int)]
    own = [(axis, pair) for axis, pair in found if pair is not None and pair[1] == samples]
    if len(own) != 1:
        return False
    ((axis, (channels, _)),) = own
    before = shape[:axis] if shape[:axis] != (1,) else ()
    shapes[name] = (*before, samples, channels, *shape[axis + 1 :])
    return True
