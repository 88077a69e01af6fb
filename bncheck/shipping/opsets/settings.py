"""The same operator at an older opset: inputs become attributes, and what is new goes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from bncheck.shipping.opsets.scope import Call, Scope, TooOldError

#: Attributes that older operators lack, below which opset, and what they do without being asked.
DEFAULTS: dict[tuple[str, str], tuple[int, Any]] = {
    ("ArgMax", "select_last_index"): (12, 0),
    ("ArgMin", "select_last_index"): (12, 0),
    ("BatchNormalization", "training_mode"): (14, 0),
    ("GRU", "layout"): (14, 0),
    ("GatherND", "batch_dims"): (12, 0),
    ("LSTM", "layout"): (14, 0),
    ("LpPool", "ceil_mode"): (18, 0),
    ("RNN", "layout"): (14, 0),
    ("Resize", "antialias"): (18, 0),
    ("Resize", "keep_aspect_ratio_policy"): (18, b"stretch"),
    ("RoiAlign", "coordinate_transformation_mode"): (16, b"output_half_pixel"),
    ("ScatterElements", "reduction"): (16, b"none"),
    ("ScatterND", "reduction"): (16, b"none"),
}


def without_defaults(call: Call, scope: Scope) -> None:
    """Drop what older operators do anyway. Raises TooOldError for what they do not."""
    for (kind, name), (below, default) in DEFAULTS.items():
        applies = kind == call.kind and scope.wanted < below
        if applies and call.settings.pop(name, default) != default:
            raise TooOldError(f"{kind} with {name}")


def reduction(call: Call, scope: Scope) -> list[Call]:
    """The axes of a sum (13) and of other reductions (18) were an attribute."""
    if scope.wanted >= (13 if call.kind == "ReduceSum" else 18):
        return [call]
    axes = scope.numbers(call, 1)
    del call.inputs[1:]
    if axes:
        call.settings["axes"] = axes
    if call.settings.pop("noop_with_empty_axes", 0) and not axes:
        return [Call("Identity", call.inputs, call.outputs)]
    return [call]


def squeeze(call: Call, scope: Scope) -> list[Call]:
    """Axes became an input with 13."""
    axes = scope.numbers(call, 1)
    del call.inputs[1:]
    if axes is not None:
        call.settings["axes"] = axes
    return [call]


def split(call: Call, scope: Scope) -> list[Call]:
    """`num_outputs` came with 18, sizes as an input with 13."""
    parts = call.settings.pop("num_outputs", None)
    if parts is not None:
        axis = call.settings.get("axis", 0)
        shape = scope.shape(call.inputs[0])
        size = None if shape is None else shape[axis]
        if size is None:
            raise TooOldError("Split into parts of a size that is not known")
        if parts != len(call.outputs):
            raise TooOldError(f"Split into {parts} parts with {len(call.outputs)} results")
        each = -(-size // parts)
        sizes = [min(each, size - each * i) for i in range(parts)]
        if min(sizes) < 0:
            raise TooOldError(f"Split of {size} into {parts} parts")
        call.inputs = [call.inputs[0], scope.add(sizes)]
    if scope.wanted < 13:
        given = scope.numbers(call, 1)
        del call.inputs[1:]
        if given is not None:
            call.settings["split"] = given
    return [call]


def shape(call: Call, scope: Scope) -> list[Call]:
    """A part of a shape could not be asked for below 15."""
    if not call.settings:
        return [call]
    start, end = call.settings.get("start", 0), call.settings.get("end", np.iinfo(np.int64).max)
    names = ["_", scope.add([start]), scope.add([end]), scope.add([0])]
    return scope.chain(
        ("Shape", call.inputs, {}), ("Slice", names, {}), result=call.outputs[0]
    )  # fmt: skip


def reshape(call: Call, scope: Scope) -> list[Call]:
    """Below 14 a 0 copies a size. A size that is computed is 0 for an empty tensor alone."""
    if call.settings.pop("allowzero", 0):
        stored = scope.constant(call.inputs[1])
        if stored is not None and not np.all(stored):
            raise TooOldError("Reshape to a size of 0")
    return [call]


def softmax(call: Call, scope: Scope) -> list[Call]:
    """Below 13 all axes from that one on are one, so it must be the last."""
    axis = call.settings.get("axis", -1)
    if axis != -1:
        last = scope.rank(call) - 1
        if axis % (last + 1) != last:
            order = [*range(last + 1)]
            order[axis % (last + 1)], order[last] = last, axis % (last + 1)
            return scope.chain(
                ("Transpose", call.inputs, {"perm": order}),
                (call.kind, ["_"], {"axis": -1}),
                ("Transpose", ["_"], {"perm": order}),
                result=call.outputs[0],
            )
    call.settings["axis"] = -1
    return [call]


def pad(call: Call, scope: Scope) -> list[Call]:
    """Below 18 amounts were given for all axes."""
    axes = scope.numbers(call, 3)
    del call.inputs[3:]
    if axes is not None:
        amounts, rank = scope.numbers(call, 1), scope.rank(call)
        assert amounts is not None
        whole = [0] * 2 * rank
        for place, axis in enumerate(axes):
            whole[axis % rank] = amounts[place]
            whole[rank + axis % rank] = amounts[len(axes) + place]
        call.inputs[1] = scope.add(whole)
    return [call]


def resize(call: Call, scope: Scope) -> list[Call]:
    """Below 18 all axes were resized; below 13 a region and scales had to be given."""
    axes = call.settings.pop("axes", None) if scope.wanted < 18 else None
    if axes is not None:
        scales = scope.constant(call.given(2))
        if scales is None or call.given(1):
            raise TooOldError("Resize of some axes to sizes")
        whole = np.ones(scope.rank(call), np.float32)
        whole[axes] = scales
        call.inputs[2] = scope.add(whole, np.float32)
    if scope.wanted < 13:
        rest = [call.given(place) or scope.add([], np.float32) for place in (1, 2)]
        call.inputs = [call.inputs[0], *rest, *call.inputs[3:]]
    return [call]


def constant(call: Call, scope: Scope) -> list[Call]:
    """Below 12 a constant was a tensor."""
    del scope
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
              "value_ints": np.int64}  # fmt: skip
    for name, dtype in dtypes.items():
        if name in call.settings:
            numbers = np.asarray(call.settings.pop(name), dtype)
            call.settings["value"] = numpy_helper.from_array(numbers)
    return [call]


def scaled(call: Call, scope: Scope) -> list[Call]:
    """Quantisation by axis came with 13."""
    if "axis" in call.settings and scope.shape(call.inputs[1]) != []:
        raise TooOldError(f"{call.kind} by axis")
    call.settings.pop("axis", None)
    return [call]


def like(call: Call, scope: Scope) -> list[Call]:
    """CastLike came with 15."""
    kind = scope.dtype(call.inputs[1])
    if not kind:
        raise TooOldError("CastLike of a dtype that is not known")
    return [Call("Cast", call.inputs[:1], call.outputs, {"to": kind})]


def clip(call: Call, scope: Scope) -> list[Call]:
    """Below 12 whole numbers could not be clipped; what is larger or smaller takes them."""
    if scope.is_float(call.inputs[0]):
        return [call]
    last, calls = call.inputs[0], []
    for place, kind in ((1, "Max"), (2, "Min")):
        if call.given(place):
            made = Call(kind, [last, call.given(place)], [scope.fresh()])
            calls += through_double(made, scope, scope.dtype(call.inputs[0]))
            last = made.outputs[0]
    return [*calls, Call("Identity", [last], call.outputs)]


def through_double(call: Call, scope: Scope, own: int = 0) -> list[Call]:
    """Below 12 these took floating numbers only; double is exact for sizes and places."""
    kinds = [scope.dtype(name) for name in call.inputs]
    if not own and all(map(scope.is_float, call.inputs)) and len(set(kinds)) == 1:
        return [call]
    double, own = helper.np_dtype_to_tensor_dtype(np.dtype(np.float64)), own or kinds[0]
    calls, names = [], []
    for name in call.inputs:
        names.append(scope.fresh() if name else "")
        if name:
            calls.append(Call("Cast", [name], [names[-1]], {"to": double}))
    made = scope.fresh()
    calls.append(Call(call.kind, names, [made], call.settings))
    return [*calls, Call("Cast", [made], call.outputs, {"to": own})]
