"""Calls that are several in one, as these: what the planner knows can then be done with each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from bncheck.folding.program.rebuilding import call_before, copied, rebuilt
from bncheck.graph.dataflow import Shape
from bncheck.graph.program.calls import Arguments, operator_name, shape_and_dtype

_aten = torch.ops.aten


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program with addcmul(a, b, c) as a + b * c, and the like."""
    if not any(_is_composite(node) or _is_product(node) for node in program.graph.nodes):
        return program
    graph = copied(program.graph)
    for node in filter(_is_composite, list(graph.nodes)):
        node.replace_all_uses_with(_COMPOSITE[operator_name(node)](node))
        graph.erase_node(node)
    for node in filter(_is_product, list(graph.nodes)):
        _without_expansions(node)
    graph.eliminate_dead_code()
    return rebuilt(program, graph)


def of_any_layout(program: ExportedProgram) -> ExportedProgram:
    """The program with reshape for view, which asks how its input lies in memory.

    That changes where a normalisation no longer copies it, and with the kernel that runs: torch
    traces and decomposes with the strides of one of them.
    """
    if not any(node.target in _VIEWS for node in program.graph.nodes):
        return program
    graph = copied(program.graph)
    for node in graph.nodes:
        node.target = _VIEWS.get(node.target, node.target)
    return rebuilt(program, graph)


_VIEWS: dict[Any, Any] = {
    _aten.view.default: _aten.reshape.default,
    _aten._unsafe_view.default: _aten.reshape.default,
    _aten.view_as.default: _aten.reshape_as.default,
}


def _is_composite(node: Node) -> bool:
    is_operator = isinstance(node.target, torch._ops.OpOverload)
    return is_operator and operator_name(node) in _COMPOSITE and not _is_extended(node)


def _is_extended(node: Node) -> bool:
    """Whether it is a torch.diff with `prepend` or `append`, or of numbers that do not float."""
    a, differs = Arguments(node), operator_name(node) == "diff"
    whole = a("prepend") is None and a("append") is None
    return differs and not (whole and node.meta["val"].is_floating_point())


def _with_factor(node: Node, factor: Any, value: Node) -> Node:
    return value if factor == 1 else call_before(node, _aten.mul.Tensor, (value, factor))


def _elementwise(node: Node) -> Node:
    """self + value * tensor1 * tensor2, or / tensor2."""
    a = Arguments(node)
    inner = _aten.mul.Tensor if operator_name(node) == "addcmul" else _aten.div.Tensor
    product = call_before(node, inner, (a("tensor1"), a("tensor2")))
    return call_before(node, _aten.add.Tensor, (a("self"), product), alpha=a("value", 1))


def _batched(node: Node) -> Node:
    """beta * self + alpha * batch1 @ batch2."""
    a = Arguments(node)
    product = call_before(node, _aten.bmm.default, (a("batch1"), a("batch2")))
    first = _with_factor(node, a("beta", 1), a("self"))
    return call_before(node, _aten.add.Tensor, (first, product), alpha=a("alpha", 1))


def _summed(node: Node) -> Node:
    """beta * self + alpha * (the sum of all batch1 @ batch2)."""
    a = Arguments(node)
    operands = [a("batch1"), a("batch2")]
    product = call_before(node, _aten.einsum.default, ("nij,njk->ik", operands))
    first = _with_factor(node, a("beta", 1), a("self"))
    return call_before(node, _aten.add.Tensor, (first, product), alpha=a("alpha", 1))


def _time_first(node: Node) -> Node:
    """A convolution of (T, B, C), with a weight of (taps, in, out)."""
    a = Arguments(node)
    source, weight = (
        call_before(node, _aten.permute.default, (a(name), order))
        for name, order in (("self", [1, 2, 0]), ("weight", [2, 1, 0]))
    )
    arguments = (source, weight, a("bias"), [1], [a("pad", 0)])
    return call_before(
        node, _aten.permute.default,
        (call_before(node, _aten.conv1d.default, arguments), [2, 0, 1]),
    )  # fmt: skip


def _differences(node: Node) -> Node:
    """x[1:] - x[:-1], as often as it says."""
    a = Arguments(node)
    value: Node = a("self")
    axis = a("dim", -1)
    for _ in range(a("n", 1)):
        ends = [(1, None), (0, -1)]
        parts = [call_before(node, _aten.slice.Tensor, (value, axis, *pair)) for pair in ends]
        value = call_before(node, _aten.sub.Tensor, tuple(parts))
    return value


_COMPOSITE: dict[str, Callable[[Node], Node]] = {
    "addcmul": _elementwise,
    "addcdiv": _elementwise,
    "addbmm": _summed,
    "baddbmm": _batched,
    "conv_tbc": _time_first,
    "diff": _differences,
}


def _is_product(node: Node) -> bool:
    """Whether it is a product one of whose operands is repeated for each sample."""
    names = ("bmm", "matmul") if isinstance(node.target, torch._ops.OpOverload) else ()
    return operator_name(node) in names and any(map(_is_repeated, node.args[:2]))


def _is_repeated(item: Any) -> bool:
    return isinstance(item, Node) and operator_name(item) == "expand"


def _without_expansions(node: Node) -> None:
    """matmul repeats what has a size of 1 by itself, as often as the other operand asks for."""
    operands: list[Any] = list(node.args[:2])
    shapes = [_shape(operand) for operand in operands]
    for place in (0, 1):
        if not _is_repeated(operands[place]) or shapes[1 - place][:-2] != shapes[place][:-2]:
            continue
        source = operands[place].args[0]
        if _shape(source)[-2:] == shapes[place][-2:]:
            operands[place] = source
            node.target, node.args = _aten.matmul.default, tuple(operands)
            return


def _shape(node: Node) -> Shape:
    return shape_and_dtype(node.meta["val"])[0] or ()
