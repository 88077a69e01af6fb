"""Calls that pick elements along axes: flips, rolls, repetitions, shuffles, selections."""

from __future__ import annotations

from typing import Any

import numpy as np

from bncheck.graph.aten.calls import Call, Describe, Described, named
from bncheck.graph.axes import picked, selected, taken, tiled, unfolded

_FLIPS = {"fliplr": (1,), "flipud": (0,)}


def _flipped(call: Call) -> Described | None:
    axes = _FLIPS.get(call.name) or call("dims")
    return call.on_source(picked(call.shape, axes, lambda places, _: places[::-1]))


def _rolled(call: Call) -> Described | None:
    axes, shifts = call("dims") or (), call("shifts")
    if len(axes) != len(shifts):
        return None
    return call.on_source(picked(call.shape, axes, lambda places, i: np.roll(places, shifts[i])))


def _repeated(call: Call) -> Described | None:
    repeats = call.first("repeats", "dims")
    counts = [1] * (call.rank - len(repeats)) + list(repeats)
    if len(counts) != call.rank or not all(isinstance(count, int) for count in counts):
        return None
    return call.on_source(tiled(call.shape, counts))


def _interleaved(call: Call) -> Described | None:
    times, axis = call.whole("repeats"), call("dim")
    if axis is None:
        return None
    return call.on_source(
        picked(call.shape, [axis], lambda places, _: np.repeat(places, times), times)
    )


def _shuffled(call: Call) -> Described | None:
    groups = call.whole("groups")
    return call.on_source(
        picked(call.shape, [1], lambda places, _: places.reshape(groups, -1).T.reshape(-1))
    )


def _index_select(call: Call) -> Described | None:
    return _selected(call, call.axis(), call.args[2])


def _indexed(call: Call) -> Described | None:
    given = [(axis, index) for axis, index in enumerate(call("indices")) if index is not None]
    return _selected(call, *given[0]) if len(given) == 1 else None


def _selected(call: Call, axis: int, index: Any) -> Described | None:
    table = call.named_sizes(index) if call.is_tensor(index) else None
    if not table or call.dtype(index) in ("bool", "uint8"):  # flags
        return None
    numbers = call.numbers(index)
    places = None if numbers is None else np.ravel(np.asarray(numbers))
    return call.on_source(unfolded(selected(call.shape, axis, places), table))


def _gathered(call: Call) -> Described | None:
    shapes = [call.named_sizes(item) for item in (call.source, call.results[0])]
    if shapes[0] is None or shapes[1] is None or call("dim") is None:
        return None
    numbers = call.repeated(call.first("index", "indices"))
    return call.on_source(taken(shapes[0], shapes[1], call.axis(), numbers))


GATHERS: dict[str, Describe] = {
    **named(_flipped, "flip fliplr flipud"),
    "roll": _rolled,
    **named(_repeated, "repeat tile"),
    "repeat_interleave": _interleaved,
    **named(_shuffled, "channel_shuffle native_channel_shuffle"),
    "index_select": _index_select,
    "index": _indexed,
    **named(_gathered, "gather take_along_dim"),
}
