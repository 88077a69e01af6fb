"""Calls that compute with parameters, and sums, products and rectifiers."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from bncheck.graph import products
from bncheck.graph.convolutions import conv, each, transposed
from bncheck.graph.program.calls import Describe, Described, ProgramCall, named, rank_of
from bncheck.graph.specs import Add, Linear, Lookup, Mul, Rectifier, Spec

_PADDINGS = {"same": None, "valid": 0}


def _convolution(call: ProgramCall) -> Described | None:
    if call("transposed"):
        return _transposed(call)
    source, weight, padding = call("input"), call("weight"), call("padding")
    if rank_of(weight) - rank_of(source) not in (0, 1):  # 1: an image without a batch
        return None
    amounts = _PADDINGS[padding] if isinstance(padding, str) else padding
    groups, kernel = int(call("groups")), _kernel(weight)
    spec = conv(groups, kernel, call("stride"), call("dilation"), amounts, amounts)
    return spec, (source, weight, call("bias"))


def _transposed(call: ProgramCall) -> Described | None:
    source, weight = call("input"), call("weight")
    if rank_of(weight) - rank_of(source) not in (0, 1):
        return None
    plain = rank_of(source) == rank_of(weight) and not any(  # without a batch: other moves
        each(call("padding"), 1) + each(call("output_padding"), 1)
    )
    groups, kernel = int(call("groups")), _kernel(weight)
    spec = transposed(groups, kernel, call("stride"), call("dilation"), plain)
    return spec, (source, weight, call("bias"))


def _kernel(weight: Any) -> tuple[int, ...]:
    return tuple(weight.meta["val"].shape[2:]) if isinstance(weight, Node) else ()


def _linear(call: ProgramCall) -> Described | None:
    weight = call("weight")
    inputs = (call("input"), weight, call("bias"))
    return (Linear(output_first=True), inputs) if rank_of(weight) == 2 else None


def _matmul(call: ProgramCall) -> Described | None:
    operands = call.args[:2]
    ranks = [rank_of(operand) for operand in operands]
    fixed = (operand in call.constants for operand in operands)
    return _product(products.product(ranks, *fixed), operands)


def _einsum(call: ProgramCall) -> Described | None:
    operands = tuple(call("tensors"))
    ranks = [rank_of(operand) for operand in operands]
    return _product(products.einsum(call("equation"), ranks), operands)


def _product(found: tuple[Spec, int] | None, operands: tuple[Any, ...]) -> Described | None:
    if found is None:
        return None
    spec, place = found
    return spec, (operands[1 - place], operands[place], None)


def _addmm(call: ProgramCall) -> Described:
    spec = Linear(False, float(call.number("alpha", 1)), float(call.number("beta", 1)))
    return spec, (call("mat1"), call("mat2"), call("self"))


def _embedding(call: ProgramCall) -> Described | None:
    weight = call("weight")
    return (Lookup(), (call("indices"), weight)) if rank_of(weight) == 2 else None


def _sum(call: ProgramCall) -> Described | None:
    """x + alpha * y, or the reverse."""
    alpha = call.number("alpha", 1)
    factors = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[call.name]
    return (Add(factors), _pair(call)) if alpha else None


def _lerp(call: ProgramCall) -> Described | None:
    weight = call("weight")
    if not isinstance(weight, float) or weight in (0.0, 1.0):
        return None
    return Add((1.0 - weight, weight)), _pair(call)


def _quotient(call: ProgramCall) -> Described | None:
    return None if call("rounding_mode") else (Mul(divides=True), _pair(call))


def _negative(call: ProgramCall) -> Described:
    return Mul(), (call.source, -1)


def _pair(call: ProgramCall) -> tuple[Any, Any]:
    first, second = (*call.args, None, None)[:2]
    return first, second


def _clamp(call: ProgramCall) -> Described | None:
    cuts_at_zero = call("min") == 0 and call("max") is None
    return call.on_source(Rectifier(call.name) if cuts_at_zero else None)


def _leaky_noise(call: ProgramCall) -> Described | None:
    return call.on_source(Rectifier(call.name) if call("training") is False else None)


ALGEBRA: dict[str, Describe] = {
    **named(_convolution, "conv1d conv2d conv3d convolution"),
    **named(_transposed, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    "linear": _linear,
    **named(_matmul, "matmul mm"),
    "einsum": _einsum,
    "addmm": _addmm,
    "embedding": _embedding,
    **named(_sum, "add sub rsub"),
    "lerp": _lerp,
    **named(_quotient, "div divide true_divide"),
    "neg": _negative,
    **named(_clamp, "clamp clamp_min"),
    "rrelu": _leaky_noise,
}
