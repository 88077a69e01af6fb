"""Calls that move numbers about, cut and join, as the planner sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bncheck.graph.aten.calls import Call, Describe, Described, named
from bncheck.graph.axes import cut
from bncheck.graph.convolutions import each
from bncheck.graph.specs import Concat, Identity, PixelShuffle, Reshape, Split, Transpose

_FLOATING = {"float16", "bfloat16", "float32", "float64"}
#: Of their second argument, only the shape or the dtype counts.
LIKE = {"view_as", "reshape_as", "expand_as", "type_as"}


def _dropout(call: Call) -> Described | None:
    return call.on_source(Identity() if call("train") is False else None)


def _conversion(call: Call) -> Described | None:
    """A cast between floating dtypes keeps the map; any other does not."""
    dtypes = {call.dtype(item) for item in (call.results[0], call.source)}
    return call.on_source(Identity() if dtypes <= _FLOATING else None)


def _viewed(call: Call) -> Described | None:
    """The same numbers in another shape; with a dtype it is their bits that are read."""
    return call.on_source(None if call("dtype") is not None else Reshape())


def _permuted(call: Call) -> Described | None:
    return call.on_source(Transpose(tuple(int(axis) % call.rank for axis in call("dims"))))


def _reversed(call: Call) -> Described | None:
    return call.on_source(Transpose(tuple(range(call.rank))[::-1]) if call.rank > 1 else Identity())


def _exchanged(call: Call) -> Described | None:
    """The two axes given, or the first two."""
    return _with_exchanged(call, (*call.args[1:3], 0, 1)[:2])


def _matrix_transpose(call: Call) -> Described | None:
    return _with_exchanged(call, (-1, -2))


def _with_exchanged(call: Call, pair: Sequence[Any]) -> Described | None:
    order = list(range(call.rank))
    if len(order) < 2:
        return call.on_source(Identity())
    first, second = pair
    order[first], order[second] = order[second], order[first]
    return call.on_source(Transpose(tuple(order)))


def _moved(call: Call) -> Described | None:
    """numpy.moveaxis' rule."""
    source, target = ([int(axis) % call.rank for axis in each(axes, 1)] for axes in call.args[1:3])
    order = [axis for axis in range(call.rank) if axis not in source]
    for place, axis in sorted(zip(target, source, strict=True)):
        order.insert(place, axis)
    return call.on_source(Transpose(tuple(order)))


def _shuffled(call: Call) -> Described | None:
    factor = int(call.first("upscale_factor", "downscale_factor"))
    spec = PixelShuffle(factor, inverse=call.name == "pixel_unshuffle")
    return call.on_source(spec if call.rank == 4 else None)


def _joined(call: Call) -> Described | None:
    parts = tuple(call.args[0])
    ranks = {call.rank_of(part) for part in parts}
    if len(ranks) != 1:  # torch.cat skips empty 1-D tensors
        return None
    return Concat(call.axis(axes=ranks.pop())), parts


def _stacked(call: Call) -> Described | None:
    parts = tuple(call.args[0])
    return Concat(call.axis(axes=call.rank_of(parts[0]) + 1), stacks=True), parts


def _split(call: Call) -> Described | None:
    """Where the parts lie is read off the results."""
    axis = call.axis()
    return call.on_source(cut(axis, [call.sizes(part)[axis] for part in call.results]))


def _unbound(call: Call) -> Described | None:
    parts = tuple(slice(i, i + 1) for i in range(len(call.results)))
    return call.on_source(Split(call.axis(), parts, drops=True))


def _sliced(call: Call) -> Described | None:
    bounds = [call(name) for name in ("start", "end", "step")]
    if not all(bound is None or isinstance(bound, int) for bound in bounds):
        return None
    return call.on_source(Split(call.axis(), (slice(*bounds),)))


def _narrowed(call: Call) -> Described | None:
    start = call.whole("start")
    return call.on_source(Split(call.axis(), (slice(start, start + call.whole("length"), 1),)))


def _selected(call: Call) -> Described | None:
    index = call.whole("index")
    return call.on_source(Split(call.axis(), (slice(index, index + 1 or None),), drops=True))


VIEWS: dict[str, Describe] = {
    **named(_dropout, "dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout"),
    **named(_conversion, "to _to_copy type_as"),
    **named(_viewed, "view view_copy"),
    **named(_permuted, "permute permute_copy"),
    **named(_exchanged, "transpose swapaxes swapdims t transpose_copy t_copy"),
    "numpy_T": _reversed,
    "mT": _matrix_transpose,
    "movedim": _moved,
    **named(_shuffled, "pixel_shuffle pixel_unshuffle"),
    **named(_joined, "cat concat concatenate"),
    "stack": _stacked,
    **named(_split, "chunk split split_with_sizes tensor_split unsafe_chunk split_copy"),
    **named(_split, "unsafe_split unsafe_split_with_sizes split_with_sizes_copy"),
    "unbind": _unbound,
    **named(_sliced, "slice slice_copy"),
    "narrow": _narrowed,
    **named(_selected, "select select_copy"),
}
