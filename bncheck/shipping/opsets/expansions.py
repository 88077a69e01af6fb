"""Newer operators as older ones."""

from __future__ import annotations

from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from bncheck.shipping.opsets.scope import Call, Scope, Step, TooOldError

#: NumPy's limit: what has more is no tensor.
_MOST_AXES = 64


def hard_swish(call: Call, scope: Scope) -> list[Call]:
    """x * max(0, min(1, x / 6 + 1 / 2))."""
    (x,) = call.inputs
    settings = {"alpha": 1 / 6, "beta": 0.5}
    return scope.chain(
        ("HardSigmoid", [x], settings), ("Mul", [x, "_"], {}), result=call.outputs[0]
    )


def mish(call: Call, scope: Scope) -> list[Call]:
    """x * tanh(log(1 + exp(x)))."""
    (x,) = call.inputs
    return scope.chain(
        ("Softplus", [x], {}), ("Tanh", ["_"], {}), ("Mul", [x, "_"], {}), result=call.outputs[0]
    )


def celu(call: Call, scope: Scope) -> list[Call]:
    """alpha * elu(x / alpha)."""
    (x,) = call.inputs
    alpha = scope.like(call.settings.get("alpha", 1.0), x)
    return scope.chain(
        ("Div", [x, alpha], {}), ("Elu", ["_"], {}), ("Mul", ["_", alpha], {}),
        result=call.outputs[0],
    )  # fmt: skip


def or_equal(call: Call, scope: Scope) -> list[Call]:
    """x > y or x = y, which differs from not x < y for NaN."""
    strict, equal = scope.fresh(), scope.fresh()
    return [
        Call(call.kind.removesuffix("OrEqual"), call.inputs, [strict]),
        Call("Equal", call.inputs, [equal]),
        Call("Or", [strict, equal], call.outputs),
    ]


def layer_normalization(call: Call, scope: Scope) -> list[Call]:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias; half dtypes in float32."""
    if any(call.outputs[1:]):
        raise TooOldError("LayerNormalization with its mean")
    x, own = call.inputs[0], scope.dtype(call.inputs[0])
    axis = call.settings.get("axis", -1)
    if not -_MOST_AXES <= axis <= _MOST_AXES:
        raise TooOldError(f"LayerNormalization from axis {axis} on")
    axes = list(range(axis, 0) if axis < 0 else range(axis, scope.rank(call)))
    inner = own if own == TensorProto.DOUBLE else TensorProto.FLOAT
    eps = scope.add(call.settings.get("epsilon", 1e-5), tensor_dtype_to_np_dtype(inner))
    wide = x if own == inner else scope.fresh()
    centred, mean = scope.fresh(), scope.fresh()
    calls = [] if own == inner else [Call("Cast", [x], [wide], {"to": inner})]
    calls += [
        Call("ReduceMean", [wide], [mean], {"axes": axes, "keepdims": 1}),
        Call("Sub", [wide, mean], [centred]),
    ]
    affine: list[Step] = [("Mul", ["_", call.inputs[1]], {})]
    affine += [("Add", ["_", call.inputs[2]], {})] if call.given(2) else []
    back: list[Step] = [] if own == inner else [("Cast", ["_"], {"to": own})]
    return calls + scope.chain(
        ("Mul", [centred, centred], {}),
        ("ReduceMean", ["_"], {"axes": axes, "keepdims": 1}),
        ("Add", ["_", eps], {}),
        ("Sqrt", ["_"], {}),
        ("Div", [centred, "_"], {}),
        *back,
        *affine,
        result=call.outputs[0],
    )


def trilu(call: Call, scope: Scope) -> list[Call]:
    """x where column - row is at most k (or at least k), and 0 elsewhere."""
    x, zero, one = call.inputs[0], scope.add(0), scope.add(1)
    k, upper = (scope.numbers(call, 1) or [0])[0], call.settings.get("upper", 1)
    shape, apart, mask = scope.fresh(), scope.fresh(), scope.fresh()
    rows = scope.chain(
        ("Gather", [shape, scope.add(-2)], {}), ("Range", [zero, "_", one], {}),
        ("Reshape", ["_", scope.add([-1, 1])], {}), result=scope.fresh(),
    )  # fmt: skip
    columns = scope.chain(
        ("Gather", [shape, scope.add(-1)], {}), ("Range", [zero, "_", one], {}),
        result=scope.fresh(),
    )  # fmt: skip
    kept = ("Greater", scope.add(k - 1)) if upper else ("Less", scope.add(k + 1))
    return [
        Call("Shape", [x], [shape]),
        *rows,
        *columns,
        Call("Sub", [columns[-1].outputs[0], rows[-1].outputs[0]], [apart]),
        Call(kept[0], [apart, kept[1]], [mask]),
        Call("Where", [mask, x, scope.like(0, x)], call.outputs),
    ]
