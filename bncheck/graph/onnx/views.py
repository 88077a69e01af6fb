"""ONNX nodes that move numbers about, cut, join and pick, as the planner sees them."""

from __future__ import annotations

import numpy as np

from bncheck.graph.axes import Places, cut, picked, selected, taken, tiled, unfolded
from bncheck.graph.onnx.call import Describe, Described, NodeCall
from bncheck.graph.onnx.nodes import FLOATS
from bncheck.graph.operators import UndescribedError
from bncheck.graph.specs import (
    Chosen,
    Concat,
    Expand,
    Gather,
    Identity,
    Lookup,
    PixelShuffle,
    Spec,
    Split,
    Transpose,
)


def _dropout(call: NodeCall) -> Spec | None:
    """Identity in inference mode."""
    if call.opset < 7:
        idle = bool(call.attribute("is_test", 0))
    else:
        idle = call.opset < 12 or not np.any(call.numbers(2))
    return Identity() if idle else None


def _cast(call: NodeCall) -> Spec | None:
    source = call.scope.values.get(call.name(0))
    keeps = source is not None and source.dtype and call.attribute("to") in FLOATS
    return Identity() if keeps else None


def _transposed(call: NodeCall) -> Spec | None:
    places = range(len(call.shape()))
    order = tuple(call.attribute("perm", places[::-1]))
    return Transpose(order) if sorted(order) == list(places) else None


def _joined(call: NodeCall) -> Spec:
    return Concat(call.axis(1))


def _split(call: NodeCall) -> Spec | None:
    """Where the parts lie is read off the results."""
    axis = call.axis(0)
    shapes = [call.scope.shape(name) for name in call.node.output]
    if not isinstance(call.shape()[axis], int):  # then no map varies along it
        return Split(axis, (slice(None),) * len(shapes))
    return cut(axis, [shape[axis] if shape else None for shape in shapes])


def _sliced(call: NodeCall) -> Spec | None:
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (call.integers(slot, name) for slot, name in enumerate(names, 1))
    if starts is None or ends is None:
        return None
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    if not all(steps) or {len(starts)} != {len(n) for n in (ends, axes, steps)}:
        return None

    def pick(places: Places, i: int) -> Places:
        # Python takes an end of -1 for the last place; ONNX means "before the first" by -size - 1.
        end = None if steps[i] < 0 and ends[i] < -len(places) else ends[i]
        return places[starts[i] : end : steps[i]]

    return picked(call.shape(), axes, pick)


def _depth_to_space(call: NodeCall) -> Spec:
    last = call.attribute("mode", "DCR") == "DCR"
    return PixelShuffle(_factor(call), depth_last=last)


def _space_to_depth(call: NodeCall) -> Spec:
    return PixelShuffle(_factor(call), inverse=True, depth_last=True)


def _factor(call: NodeCall) -> int:
    factor = int(call.attribute("blocksize"))
    if factor < 1:
        raise UndescribedError
    return factor


def _gathered(call: NodeCall) -> Spec | Described | None:
    shape, axis = call.shape(), call.axis(0)
    indices = call.scope.fixed(call.name(1))
    if indices is None:
        if axis == 0 and len(shape) == 2 and call.scope.is_stored(call.name(0)):
            return Lookup(), call.inputs[::-1]
        # Whatever the indices say, a map that does not vary along the axis passes.
        return unfolded(Gather(((axis, None),)), call.shape(1))
    if np.ndim(indices) > 0:
        return unfolded(selected(shape, axis, np.ravel(indices)), np.shape(indices))
    size = shape[axis]
    if not size:
        return None
    if not isinstance(size, int):  # then no map varies along it
        return Split(axis, (slice(None),), drops=True)
    index = int(indices) % size
    return Split(axis, (slice(index, index + 1),), drops=True)


def _gathered_at(call: NodeCall) -> Spec | None:
    """A table of places along the axis behind those of the batch, one number for each place."""
    table, axis = call.shape(1), int(call.attribute("batch_dims", 0))
    places = table[axis:-1]
    if not places or table[-1] != 1:
        return None
    return unfolded(Gather(((axis, None),)), places)


def _compressed(call: NodeCall) -> Spec | None:
    """Without an axis it picks from the flattened input, which is not described."""
    if call.attribute("axis") is None:
        return None
    axis, chosen = call.axis(0), call.scope.fixed(call.name(1))
    if chosen is None or not isinstance(call.shape()[axis], int):
        return Chosen(((axis, None),))
    return selected(call.shape(), axis, np.flatnonzero(chosen[: call.shape()[axis]]))


def _expanded(call: NodeCall) -> Spec:
    if call.name(0) in call.scope.constants:
        call.scope.repeated[call.results[0]] = call.name(0)
    return Expand()


def _taken(call: NodeCall) -> Spec | None:
    name = call.name(1)
    try:
        numbers = call.scope.fixed(call.scope.repeated.get(name, name))
    except UndescribedError:  # so many that they are not read for this graph
        numbers = None
    return taken(call.shape(), call.shape(1), call.axis(0), numbers)


def _reversed(call: NodeCall) -> Spec:
    """The first elements of each sample, as many as its length says, in the reversed order."""
    shape, lengths = call.shape(), call.scope.fixed(call.name(1))
    axis = int(call.attribute("time_axis", 0)) % len(shape)
    if lengths is None or len(set(np.ravel(lengths))) != 1:
        return Chosen(((axis, None),), varies=lengths is not None)
    length = int(np.ravel(lengths)[0])
    return picked(shape, [axis], lambda places, _: [*places[:length][::-1], *places[length:]])


def _tiled(call: NodeCall) -> Spec | None:
    shape, counts = call.shape(), call.integers(1)
    if counts is None or len(counts) != len(shape) or min(counts) < 0:
        return None
    return tiled(shape, counts)


VIEWS: dict[str, Describe] = {
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transposed,
    "Expand": _expanded,
    "Concat": _joined,
    "Split": _split,
    "Slice": _sliced,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Gather": _gathered,
    "Compress": _compressed,
    "GatherElements": _taken,
    "GatherND": _gathered_at,
    "ReverseSequence": _reversed,
    "Tile": _tiled,
}
