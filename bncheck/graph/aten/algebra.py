"""Calls that compute with parameters, and sums, products and rectifiers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bncheck.graph import products
from bncheck.graph.aten.calls import Call, Describe, Described, named
from bncheck.graph.convolutions import conv, each, multiple, transposed
from bncheck.graph.dataflow import Dim
from bncheck.graph.linear import Linear
from bncheck.graph.operators import UndescribedError
from bncheck.graph.specs import (
    Add,
    Attended,
    Bilinear,
    Bounded,
    Larger,
    Lookup,
    Mul,
    Pointwise,
    Rectifier,
    Spec,
)

_PADDINGS = {"same": None, "valid": 0}


def _convolution(call: Call) -> Described | None:
    if call("transposed"):
        return _transposed(call)
    source, weight, padding = call("input"), call("weight"), call("padding")
    if call.rank_of(weight) - call.rank_of(source) not in (0, 1):  # 1: an image without a batch
        return None
    amounts = _PADDINGS[padding] if isinstance(padding, str) else padding
    groups, samples = _groups(call)
    spec = conv(groups, _kernel(call), call("stride"), call("dilation"), amounts, amounts)
    return replace(spec, samples=samples), (source, weight, call("bias"))


def _groups(call: Call) -> tuple[int, str]:
    """How many groups there are, each of so many samples where that is a name."""
    groups = call.size("groups")
    found = (groups, "") if isinstance(groups, int) else multiple(groups)
    if found is None:
        raise UndescribedError
    return found


def _transposed(call: Call) -> Described | None:
    source, weight = call("input"), call("weight")
    if call.rank_of(weight) - call.rank_of(source) not in (0, 1):
        return None
    batched = call.rank_of(source) == call.rank_of(weight)  # if not, folding it takes other moves
    plain = batched and not any(each(call("padding"), 1) + each(call("output_padding"), 1))
    groups, kernel = call.whole("groups"), _kernel(call)
    spec = transposed(groups, kernel, call("stride"), call("dilation"), plain)
    return spec, (source, weight, call("bias"))


def _kernel(call: Call) -> tuple[int, ...]:
    weight = call("weight")
    return tuple(call.sizes(weight)[2:]) if call.is_tensor(weight) else ()


def _linear(call: Call) -> Described | None:
    weight = call("weight")
    specs = {1: Linear(((-1, None),)), 2: Linear.matrix(output_first=True)}
    spec = specs.get(call.rank_of(weight))
    return None if spec is None else (spec, (call("input"), weight, call("bias")))


def _bilinear(call: Call) -> Described:
    return Bilinear(), (call("input1"), call("weight"), call("bias"), call("input2"))


def _matmul(call: Call) -> Described | None:
    operands = call.args[:2]
    if call.shares(operands[0]) and not call.is_fixed(operands[1]):
        found = _attended(call, operands[1], operands[0])
        if found is not None:
            return found
    return _product(products.product(_known(call, operands)), operands)


def _attention(call: Call) -> Described | None:
    query, key, value, mask = (call(name) for name in ("query", "key", "value", "attn_mask"))
    if call("dropout_p") or call("enable_gqa"):
        return None
    rest = [] if mask is None else [mask]
    found = _attended(call, value, query, key, *rest)
    if found is None or _reads_some(call, mask):
        return found
    return Attended((call.rank_of(value) - 2,), gain=None), found[1]


def _reads_some(call: Call, mask: Any) -> bool:
    """Whether each query sees a key, whatever the input is: torch gives 0 to one that sees none."""
    if mask is None:
        return True
    numbers = call.repeated(mask)
    if numbers is None or not call.rank_of(mask):
        return False
    seen = np.asarray(numbers)
    seen = seen if seen.dtype == bool else np.isfinite(seen)
    return bool(seen.size) and bool(np.all(np.any(seen, axis=-1)))


def _attended(call: Call, value: Any, *rest: Any) -> Described | None:
    """A product whose first operand has rows that sum to 1: weighted means of the value's rows."""
    shape, result = (call.named_sizes(item) for item in (value, call.results[0]))
    alike = shape and result and len(shape) > 1 and shape[:-2] == result[:-2]
    return (Attended((len(shape) - 2,)), (value, *rest)) if shape and alike else None


def _einsum(call: Call) -> Described | None:
    operands = tuple(call("tensors"))
    return _product(products.einsum(call("equation"), _known(call, operands)), operands)


def _tensordot(call: Call) -> Described | None:
    operands = (call("self"), call("other"))
    axes = [[int(axis) for axis in each(call(name), 1)] for name in ("dims_self", "dims_other")]
    return _product(products.tensordot(axes, _known(call, operands)), operands)


def _known(call: Call, operands: Sequence[Any]) -> list[products.Operand]:
    return [
        products.Operand(call.named_sizes(operand) or (), call.is_fixed(operand))
        for operand in operands
    ]


def _product(found: tuple[Spec, int] | None, operands: tuple[Any, ...]) -> Described | None:
    if found is None:
        return None
    spec, place = found
    return spec, (operands[1 - place], operands[place], None)


def _addmm(call: Call) -> Described:
    alpha, beta = float(call.number("alpha", 1)), float(call.number("beta", 1))
    spec = Linear.matrix(output_first=False, alpha=alpha, beta=beta)
    return spec, (call("mat1"), call("mat2"), call("self"))


def _embedding(call: Call) -> Described | None:
    weight = call("weight")
    return (Lookup(), (call("indices"), weight)) if call.rank_of(weight) == 2 else None


def _bag(call: Call) -> Described | None:
    """Sums (mode 0), means (1) or largest numbers (2) of rows; those of no row are 0."""
    weight, mode, indices = call("weight"), call.whole("mode", 0), call("indices")
    sizes = call.named_sizes(indices) or ()
    if call.rank_of(weight) != 2 or len(sizes) != 1:
        return None
    rows = call.stride_of(call("offsets"), sizes[0]) if mode == 0 else 1
    uneven = _uneven(call, sizes[0]) or ("" if rows else "adds up bags of different sizes")
    return Lookup(uneven, orders=mode == 2, rows=rows or 1), (indices, weight, None)


def _uneven(call: Call, end: Dim) -> str:
    """Why bags do not count all their rows alike, or may have none; "" where neither is so."""
    offsets = call("offsets")
    if call("per_sample_weights") is not None:
        return "weights its rows"
    if call("padding_idx") not in (None, -1):
        return "leaves rows out (padding_idx), and a bag may have no other"
    if call("include_last_offset"):
        return "is told where its last bag ends (include_last_offset)"
    if call.rises(offsets, end):
        return ""
    numbers = call.numbers(offsets)
    if numbers is None:
        return "has bags that begin where its input says, and one may have no row"
    if isinstance(end, int) or not call.rises(offsets, max(map(int, numbers), default=0) + 1):
        return "has a bag without a row"
    return "has a last bag that may have no row, since the number of its indices is free"


def _sum(call: Call) -> Described | None:
    """x + alpha * y, or the reverse."""
    alpha = call.number("alpha", 1)
    factors = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[call.name]
    return (Add(factors), _pair(call)) if alpha else None


def _lerp(call: Call) -> Described | None:
    weight = call("weight")
    if not isinstance(weight, float) or weight in (0.0, 1.0):
        return None
    return Add((1.0 - weight, weight)), _pair(call)


def _quotient(call: Call) -> Described | None:
    return None if call("rounding_mode") else (Mul(divides=True), _pair(call))


def _negative(call: Call) -> Described:
    return Mul(), (call.source, -1)


def _pair(call: Call) -> tuple[Any, Any]:
    first, second = (*call.args, None, None)[:2]
    return first, second


def _clamp(call: Call) -> Described | None:
    low, high = call("min"), call("max")
    if low == 0 and high is None:
        return call.on_source(Rectifier(call.name))
    if high == 0 and low is None:
        return call.on_source(Rectifier(call.name, 1.0, positive=0.0))
    if low is None or high is None:
        return _bounded(call, low, high)
    return _between(call, low, high)


def _bounded(call: Call, low: Any, high: Any) -> Described | None:
    bound, none = (high, -math.inf) if low is None else (low, math.inf)
    if call.is_tensor(bound):
        return Larger(), (call.source, bound)
    low, high = (none, bound) if low is None else (bound, none)
    if not isinstance(bound, (int, float)) or not math.isfinite(bound):
        return _between(call, low, high)
    return Bounded(float(low), float(high)), (call.source, bound)


def _hard_tanh(call: Call) -> Described | None:
    return _between(call, call.number("min_val", -1.0), call.number("max_val", 1.0))


def _relu6(call: Call) -> Described | None:
    return _between(call, 0, 6)


def _between(call: Call, low: Any, high: Any) -> Described | None:
    if not all(isinstance(bound, (int, float)) for bound in (low, high)):
        return None  # two tensors, or a symbol
    return call.on_source(Pointwise("clip", (float(low), float(high))))


def _leaky(call: Call) -> Described | None:
    return call.on_source(Rectifier(call.name, float(call.number("negative_slope", 0.01))))


def _leaky_noise(call: Call) -> Described | None:
    """In eval mode the slope is the middle of its range."""
    if call("training") is not False:
        return None
    slope = (call.number("lower", 1 / 8) + call.number("upper", 1 / 3)) / 2
    return call.on_source(Rectifier(call.name, float(slope)))


def _elu(call: Call) -> Described | None:
    settings = (float(call.number("alpha", 1.0)), float(call.number("scale", 1.0)))
    return call.on_source(Pointwise("elu", settings))


def _softplus(call: Call) -> Described | None:
    return call.on_source(Pointwise("softplus", (float(call.number("beta", 1.0)),)))


def _hard_sigmoid(call: Call) -> Described | None:
    return call.on_source(Pointwise("hardsigmoid"))


ALGEBRA: dict[str, Describe] = {
    **named(_convolution, "conv1d conv2d conv3d convolution"),
    **named(_transposed, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    "linear": _linear,
    "bilinear": _bilinear,
    **named(_matmul, "matmul mm bmm mv"),
    "einsum": _einsum,
    **named(_attention, "scaled_dot_product_attention"),
    **named(_attention, "_scaled_dot_product_flash_attention_for_cpu"),
    "tensordot": _tensordot,
    "addmm": _addmm,
    "embedding": _embedding,
    **named(_bag, "embedding_bag _embedding_bag _embedding_bag_forward_only"),
    **named(_sum, "add sub rsub"),
    "lerp": _lerp,
    **named(_quotient, "div divide true_divide"),
    "neg": _negative,
    **named(_clamp, "clamp clip clamp_min clamp_max"),
    "hardtanh": _hard_tanh,
    "relu6": _relu6,
    "leaky_relu": _leaky,
    "rrelu": _leaky_noise,
    "elu": _elu,
    "softplus": _softplus,
    "hardsigmoid": _hard_sigmoid,
}
