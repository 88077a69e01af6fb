"""ONNX nodes that compute with parameters, sums, products, rectifiers and normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bncheck.graph import products
from bncheck.graph.convolutions import conv, transposed
from bncheck.graph.linear import Linear
from bncheck.graph.onnx.call import Describe, Described, NodeCall
from bncheck.graph.operators import UndescribedError
from bncheck.graph.specs import (
    ALONE,
    ALONE_HINT,
    Add,
    Attended,
    Bounded,
    Identity,
    Larger,
    Mul,
    Norm,
    Pointwise,
    Rectifier,
    Recurrent,
    Rescaled,
    Spec,
)
from bncheck.reading.onnx_norms import norm_node

_BATCH = "it normalises with the statistics of the batch: it was exported in training mode"
_BATCH_HINT = "call model.eval() before exporting"
_EACH_PLACE = "it has statistics for each position, not for each channel (spatial=0)"
_PLACE_HINT = "train it with one for each channel (spatial=1)"


def _convolution(call: NodeCall) -> Spec:
    a, kernel = call.attribute, call.shape(1)[2:]
    number = len(kernel)
    pads = a("pads") or [0] * 2 * number
    before, behind = (None, None) if call.keeps_size else (pads[:number], pads[number:])
    steps, gaps = a("strides") or [1], a("dilations") or [1]
    return conv(_groups(call), kernel, steps, gaps, before, behind)


def _transposed(call: NodeCall) -> Spec:
    a, kernel = call.attribute, call.shape(1)[2:]
    # SAME_UPPER and SAME_LOWER cut off kernel - stride, which is nothing then.
    cut = a("auto_pad", "NOTSET") == "NOTSET" and any(a("pads", ()))
    plain = not cut and not any(a("output_padding", ())) and a("output_shape") is None
    plain &= call.opset >= 5  # before, Reshape (folding/onnx/tiling.py) has another form
    strides = a("strides", [1] * len(kernel))
    sized = a("output_shape") is not None
    return transposed(_groups(call), kernel, strides, a("dilations", [1]), plain, sized)


def _groups(call: NodeCall) -> int:
    """The number of groups that the first axis of a weight falls into."""
    groups, channels = int(call.attribute("group", 1)), call.shape(1)[0]
    if groups < 1 or (isinstance(channels, int) and channels % groups):
        raise UndescribedError
    return groups


def _gemm(call: NodeCall) -> Spec:
    a = call.attribute
    axes = (-2 if a("transA", 0) else -1, -1)
    alpha, beta = float(a("alpha", 1.0)), float(a("beta", 1.0))
    return Linear.matrix(output_first=bool(a("transB", 0)), alpha=alpha, beta=beta, axes=axes)


def _matmul(call: NodeCall) -> Described | None:
    """Rows that sum to 1 make weighted means of the rows of the second operand."""
    scope, value = call.scope, call.scope.shape(call.name(1)) or ()
    shares = call.name(0) in scope.shares and not scope.is_stored(call.name(1))
    result = scope.shape(call.results[0])
    if shares and result and len(value) > 1 and value[:-2] == result[:-2]:
        return Attended((len(value) - 2,)), [call.name(1), call.name(0)]
    return _product(call, products.product(_operands(call)))


def _softmax(call: NodeCall) -> None:
    """Before opset 13 it runs over all axes from the given one on."""
    if call.axis(-1 if call.opset >= 13 else 1) == call.rank() - 1:
        call.scope.shares.add(call.results[0])


def _einsum(call: NodeCall) -> Described | None:
    return _product(call, products.einsum(str(call.attribute("equation", "")), _operands(call)))


def _operands(call: NodeCall) -> list[products.Operand]:
    scope = call.scope
    return [products.Operand(scope.shape(n) or (), scope.is_stored(n)) for n in call.inputs]


def _product(call: NodeCall, found: tuple[Spec, int] | None) -> Described | None:
    if found is None:
        return None
    spec, place = found
    return spec, [call.inputs[1 - place], call.inputs[place]]


def _recurrent(call: NodeCall) -> Described:
    """Of its bias, W x takes the first half, and the state the second."""
    bias, scope, weight = call.name(3), call.scope, call.shape(1)
    numbers = scope.fixed(bias)
    sizes = [(weight[0], 2 * size) for size in weight[1:2] if isinstance(size, int)]
    if len(weight) != 3 or (numbers is not None and np.shape(numbers) not in sizes):
        raise UndescribedError
    if numbers is not None:
        first = np.asarray(numbers)[:, : np.shape(numbers)[1] // 2].astype(np.float64).reshape(-1)
        name = f"{call.results[0]}:bias"
        bias = scope.derived(name, lambda: first, first.shape, bias)
    rest = [name for name in (call.name(2), *call.inputs[4:]) if name]
    return Recurrent(shifts=True), [call.inputs[0], call.inputs[1], bias, *rest]


def _sum(call: NodeCall) -> Spec | None:
    if len(call.inputs) == 1:
        return Identity()
    factors = {"Sub": (1.0, -1.0), "Mean": (0.5, 0.5)}.get(call.kind, (1.0, 1.0))
    return Add(factors) if len(call.inputs) == 2 else None


def _quotient(_: NodeCall) -> Spec:
    return Mul(divides=True)


def _negative(call: NodeCall) -> Described:
    return Mul(), [*call.inputs, call.scope.minus_one(call.node.output[0])]


def _max(call: NodeCall) -> Spec | None:
    """A constant 0 in a Max makes it a ReLU, which others fuse: it is not to become another one."""
    if len(call.inputs) == 1:
        return Identity()
    if call.kind == "Max" and len(call.inputs) == 2 and _is_zero(call, 1):
        return Rectifier(call.kind)
    return Larger() if len(call.inputs) == 2 else None


def _clip(call: NodeCall) -> Spec | Described | None:
    if call.opset < 11:
        low, high = call.attribute("min"), call.attribute("max")
    else:
        low, high = call.numbers(1), call.numbers(2)
    if high is None and low is not None and not np.any(low):
        return Rectifier(call.kind)
    if low is None and high is not None and not np.any(high):
        return Rectifier(call.kind, 1.0, positive=0.0)
    bounds = (-np.inf if low is None else low, np.inf if high is None else high)
    if any(np.size(bound) != 1 for bound in bounds):
        return None
    least, most = (float(np.ravel(bound)[0]) for bound in bounds)
    if np.isfinite(least) == np.isfinite(most) or call.opset < 8:  # before, Max repeats nothing
        return Pointwise("clip", (least, most))
    number = np.asarray(least if np.isfinite(least) else most)
    name = call.scope.derived(f"{call.results[0]}:bound", lambda: number, (), call.name(0))
    return Bounded(least, most), [call.name(0), name]


def _leaky(call: NodeCall) -> Spec:
    return Rectifier(call.kind, float(call.attribute("alpha", 0.01)))


def _elu(call: NodeCall) -> Spec:
    return Pointwise("elu", (float(call.attribute("alpha", 1.0)),))


def _selu(call: NodeCall) -> Spec:
    alpha = float(call.attribute("alpha", 1.6732632423543772))
    return Pointwise("elu", (alpha, float(call.attribute("gamma", 1.0507009873554805))))


def _hard_sigmoid(call: NodeCall) -> Spec:
    a = call.attribute
    return Pointwise("hardsigmoid", (float(a("alpha", 0.2)), float(a("beta", 0.5))))


def _is_zero(call: NodeCall, slot: int) -> bool:
    number = call.scope.fixed(call.name(slot))
    return number is not None and not np.any(number)


def _batch_norm(call: NodeCall) -> Spec:
    says = norm_node(call.node, call.opset)
    if not says.spatial and call.rank() != 2:
        return Norm(_eps(call), True, _EACH_PLACE, _PLACE_HINT)
    return Norm(_eps(call), says.trains, _BATCH, _BATCH_HINT)


def _eps(call: NodeCall) -> float:
    """To the last bit, where what people read is rounded."""
    return float(call.attribute("epsilon", np.float32(1e-5)))


def _instance_norm(call: NodeCall) -> Spec:
    return Norm(_eps(call), True, ALONE, ALONE_HINT)


def _layer_norm(call: NodeCall) -> Described | None:
    """Its mean and its deviation, where they are read, do not depend on its affine."""
    return _rescaled(call, shifts=True)


def _rms_norm(call: NodeCall) -> Described | None:
    return _rescaled(call, shifts=False)


def _group_norm(call: NodeCall) -> Spec | Described:
    """Before opset 21, it has a number for each group."""
    if call.opset >= 21:
        return Rescaled((1,))
    channels, groups = call.shape()[1], call.shape(1)[0]
    known = isinstance(channels, int) and isinstance(groups, int) and groups > 0
    if not known or int(channels) % int(groups):
        raise UndescribedError
    share = int(channels) // int(groups)
    names = [_repeated(call, slot, share) for slot in (1, 2)]
    return Rescaled((1,), share=share), [call.inputs[0], *names]


def _repeated(call: NodeCall, slot: int, times: int) -> str:
    """The name of a value that no node holds: each number of a weight so many times."""
    numbers = np.repeat(np.asarray(call.numbers(slot), np.float64), times)
    name = f"{call.results[0]}:{slot}"
    return call.scope.derived(name, lambda: numbers, numbers.shape, call.name(slot))


def _rescaled(call: NodeCall, *, shifts: bool) -> Described:
    """Weight and bias lie along the axes where either is not repeated; there both are made whole.

    Where neither lies along any, they are made whole along the last.
    """
    shape, names = call.shape(), [name for name in call.inputs[1:3] if name]
    shapes = [call.scope.shape(name) for name in names]
    known = [each for each in shapes if each is not None]
    if not known or len(known) < len(shapes):
        raise UndescribedError
    try:
        sizes = list(np.broadcast_shapes(*known, (1,)))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a size that is not known, or does not fit
        raise UndescribedError from None
    axes = [axis for axis in range(-len(sizes), 0) if sizes[axis] != 1] or [-1]
    if sizes[-1] == 1 and axes == [-1]:
        sizes[-1] = shape[-1]
    fits = len(sizes) <= len(shape) and all(shape[axis] == sizes[axis] for axis in axes)
    if not fits or not all(isinstance(size, int) for size in sizes):
        raise UndescribedError
    whole = [_made_whole(call, slot, sizes) for slot in range(1, 1 + len(names))]
    return Rescaled(tuple(axis + len(shape) for axis in axes), shifts), [call.inputs[0], *whole]


def _made_whole(call: NodeCall, slot: int, sizes: Sequence[int]) -> str:
    """A weight, or one of that shape which no node holds."""
    name = call.name(slot)
    if math.prod(call.scope.shape(name) or ()) == math.prod(sizes):
        return name
    numbers = np.broadcast_to(call.numbers(slot), sizes).astype(np.float64)
    return call.scope.derived(f"{call.results[0]}:{slot}", lambda: numbers, numbers.shape, name)


ALGEBRA: dict[str, Describe] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Softmax": _softmax,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), _sum),
    "Div": _quotient,
    "Neg": _negative,
    **dict.fromkeys(("Max", "Min"), _max),
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Selu": _selu,
    "HardSigmoid": _hard_sigmoid,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
}
