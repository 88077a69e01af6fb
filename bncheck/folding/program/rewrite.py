"""A solution becomes a new torch.export program; the old one and its tensors stay as they are."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from bncheck.folding.algebra import Cast
from bncheck.folding.planner.normalisations import Slot, data_slot
from bncheck.folding.program.parameters import Parameters
from bncheck.folding.program.rebuilding import call_before, copied, rebuilt
from bncheck.folding.weights import NewWeights, Solution
from bncheck.graph.dataflow import Op
from bncheck.graph.linear import Linear
from bncheck.graph.program.calls import Arguments
from bncheck.graph.program.recurrent import Recurrence, recurrence
from bncheck.graph.specs import Conv, ConvTranspose

_aten = torch.ops.aten
#: The arguments of a call that hold its weight and its bias, where they are not called so.
_WEIGHT_NAMES = {
    "addmm": ("mat2", "self"),
    **dict.fromkeys(
        ("embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"),
        ("weight", None),
    ),
}
#: Their weight stands first or second, and a bias is added behind them.
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "mv", "einsum", "tensordot"})


@dataclass(frozen=True)
class Rewritten:
    """A new program; `twins` names, for each call of the old one, the call that now stands for it.

    A normalisation's twin is the call that made its input.
    """

    program: ExportedProgram
    twins: Mapping[str, str]


def rewrite(program: ExportedProgram, solution: Solution) -> Rewritten:
    """Carry out the plan on a copy of the graph."""
    rewriter = _ProgramRewriter(program, solution)
    new = rewriter.run()
    return Rewritten(new, {old: node.name for old, node in rewriter.nodes.items()})


class _ProgramRewriter:
    """`nodes` are the nodes that now make the values of the old graph."""

    def __init__(self, program: ExportedProgram, solution: Solution) -> None:
        self.program = program
        self.solution = solution
        self.graph = copied(program.graph)
        self.nodes: dict[str, Node] = {node.name: node for node in self.graph.nodes}
        self.parameters = Parameters(program, self.graph)

    def run(self) -> ExportedProgram:
        ops = self.solution.graph.ops
        for index, new in self.solution.weights.items():
            self._reweigh(ops[index], new, shuffles=self.solution.plan.folds[index].as_shuffle)
        for (index, slot), number in self.solution.constants.items():
            self._replace_constant(ops[index], slot, number)
        for index in sorted(self.solution.plan.bypassed):
            self._bypass(index, ops[index])
        for index, new in self.solution.rewritten.items():
            self._rewrite_norm(ops[index], new)
        self.graph.eliminate_dead_code()
        self.parameters.sweep()
        self.graph.lint()
        return rebuilt(self.program, self.graph, *self.parameters.result())

    def _reweigh(self, op: Op, new: NewWeights, *, shuffles: bool) -> None:
        node = self.nodes[op.name]
        if new.plain:
            _set_argument(node, "weight", None)
            if op.input(Slot.BIAS) is not None:
                _set_argument(node, "bias", None)
            return
        parts = recurrence(node)
        if parts is not None:
            self._reweigh_recurrent(node, op, parts, new)
            return
        weight, bias = (
            None if number is None else self._parameter(node, op, slot, role, number)
            for slot, role, number in ((1, "weight", new.weight), (2, "bias", new.bias))
        )
        if shuffles:
            assert isinstance(op.spec, ConvTranspose)
            assert weight is not None
            self._as_shuffle(node, op.spec, weight, bias)
            return
        if bias is not None and isinstance(op.spec, Conv) and op.spec.samples:
            bias = self._of_each_sample(node, bias, op.spec.groups)
        bias_name = _names(op.kind)[1]
        if weight is not None and self._set_weight(node, op, weight):
            bias_name = None
        if bias_name is None and bias is not None:
            self._add_after(node, bias)
        elif bias_name is not None and (bias is not None or op.kind != "addmm"):
            _set_argument(node, bias_name, bias)

    def _of_each_sample(self, node: Node, bias: Node, groups: int) -> Node:
        """The bias as often as there are samples, which are groups of the call."""
        samples = Arguments(node)("groups")
        if groups > 1:
            samples = call_before(node, operator.floordiv, (samples, groups))
        return call_before(node, _aten.repeat.default, (bias, [samples]))

    def _set_weight(self, node: Node, op: Op, weight: Node) -> bool:
        """Give a call a weight; whether it stands for a product that has no bias."""
        plain = op.kind == "linear" and len(weight.meta["val"].shape) == 1
        if plain or op.kind in _PRODUCTS:
            old = self.nodes[op.inputs[1] or ""]
            node.args = torch.fx.map_arg(node.args, lambda item: weight if item is old else item)
        else:
            _set_argument(node, _names(op.kind)[0] or "", weight)
        if isinstance(op.spec, Linear):
            node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("alpha", "beta")}
        return plain

    def _reweigh_recurrent(self, node: Node, op: Op, parts: Recurrence, new: NewWeights) -> None:
        """Its numbers are those of both directions, one on top of the other."""
        parameters = list(parts.parameters)
        for role, places, number in (
            ("weight_ih", parts.weights, new.weight), ("bias_ih", parts.biases, new.bias)
        ):  # fmt: skip
            pieces = [] if number is None else np.split(number.array, len(places) or 1)
            for place, piece in zip(places, pieces, strict=True):
                made = Cast(piece, overflows=False, flushed=0)
                wish = f"{op.label}.{role}_l0"
                parameters[place] = self.parameters.replaced(parameters[place], node, made, wish)
        given = (
            zip(parts.names, parameters, strict=True) if parts.names else [("params", parameters)]
        )
        for name, value in given:
            _set_argument(node, name, value)

    def _parameter(self, node: Node, op: Op, slot: int, role: str, number: Cast) -> Node:
        value = self.solution.graph.values.get(op.input(slot) or "")
        holder = self.nodes[value.name] if value is not None and value.label else None
        return self.parameters.replaced(holder, node, number, f"{op.label}.{role}")

    def _replace_constant(self, op: Op, slot: int, number: Cast) -> None:
        node = self.nodes[op.name]
        new = self.parameters.new(f"{op.label}.constant", number)
        if op.kind in ("cat", "concat", "concatenate"):
            parts: list[Any] = list(node.args[0])  # type: ignore[arg-type]
            parts[slot] = new
            node.args = (parts, *node.args[1:])
        elif isinstance(op.spec, (Conv, ConvTranspose, Linear)):
            _set_argument(node, _names(op.kind)[1] or "", new)
        elif op.kind.startswith(("clamp", "clip")):
            name = "max" if Arguments(node)("min") is None else "min"
            assert isinstance(node.target, torch._ops.OpOverload)
            node.target = node.target.overloadpacket.Tensor
            _set_argument(node, name, new)
        else:
            node.args = (*node.args[:slot], new, *node.args[slot + 1 :])
            if isinstance(node.target, torch._ops.OpOverload):  # rsub.Scalar takes no tensor there
                takes = str(node.target._schema.arguments[slot].type)
                packet = node.target.overloadpacket
                node.target = node.target if takes == "Tensor" else packet.Tensor

    def _bypass(self, index: int, op: Op) -> None:
        """Let the readers of a normalisation read its input, or the numbers that it got instead."""
        slot = data_slot(self.solution.graph, op)
        name, new = op.inputs[slot], self.nodes[op.name].args[0]
        assert name is not None
        changed = (index, slot) in self.solution.constants
        self._replace(op, new if changed and isinstance(new, Node) else self.nodes[name])

    def _replace(self, op: Op, source: Node) -> None:
        """Let the readers of a call's first result read `source` instead."""
        node = self.nodes[op.name]
        if isinstance(node.meta["val"], (tuple, list)):
            for user in list(node.users):
                if user.args[1] == 0:
                    user.replace_all_uses_with(source)
                    self.nodes[user.name] = source
        else:
            node.replace_all_uses_with(source)
        self.nodes[op.name] = source

    def _rewrite_norm(self, op: Op, new: NewWeights) -> None:
        """A normalisation that stays becomes a 1 x 1 convolution by channel, or a product and sum.

        The shape of its new weight says which: [C, 1, 1, 1] or [1, C, 1, ...].
        """
        assert op.inputs[0] is not None
        assert new.bias is not None
        assert new.weight is not None
        node, source = self.nodes[op.name], self.nodes[op.inputs[0]]
        weight = self.parameters.new(f"{op.label}.weight", new.weight)
        bias = self.parameters.new(f"{op.label}.bias", new.bias)
        with self.graph.inserting_before(node):
            if new.bias.array.ndim == 1:
                args = (source, weight, bias, [1, 1], [0, 0], [1, 1], len(new.bias.array))
                made = [self.graph.call_function(_aten.conv2d.default, args)]
            else:
                product = self.graph.call_function(_aten.mul.Tensor, (source, weight))
                made = [product, self.graph.call_function(_aten.add.Tensor, (product, bias))]
        value = node.meta["val"]
        value = value[0] if isinstance(value, (tuple, list)) else value
        for call in made:
            call.meta = {**node.meta, "val": value}
        self._replace(op, made[-1])

    def _add_after(self, node: Node, bias: Node) -> None:
        with self.graph.inserting_after(node):
            added = self.graph.call_function(_aten.add.Tensor, (node, bias))
        added.meta = dict(node.meta)
        node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
        self.nodes[node.name] = added

    def _as_shuffle(self, node: Node, spec: ConvTranspose, weight: Node, bias: Node | None) -> None:
        """docs/folding.md, "Tiling"."""
        tile = list(spec.stride)
        dims = len(tile)
        ones, zeros = [1] * dims, [0] * dims
        conv = getattr(_aten, f"conv{dims}d").default
        arguments = (node.args[0], weight, bias, ones, zeros, ones, spec.groups)
        last = call_before(node, conv, arguments)
        if dims == 2 and tile[0] == tile[1]:
            last = call_before(node, _aten.pixel_shuffle.default, (last, tile[0]))
        else:  # (N, C*r*s, H, W) -> (N, C, r, s, H, W) -> (N, C, H, r, W, s) -> (N, C, H*r, W*s)
            outer = weight.meta["val"].shape[0] // math.prod(tile)
            last = call_before(node, _aten.unflatten.int, (last, 1, [outer, *tile]))
            pairs = [axis for i in range(2, dims + 2) for axis in (i + dims, i)]
            last = call_before(node, _aten.permute.default, (last, [0, 1, *pairs]))
            for axis in range(2, dims + 2):
                last = call_before(node, _aten.flatten.using_ints, (last, axis, axis + 1))
        node.replace_all_uses_with(last)
        self.nodes[node.name] = last


def _names(kind: str) -> tuple[str | None, str | None]:
    usual = (None, None) if kind in _PRODUCTS else ("weight", "bias")
    return _WEIGHT_NAMES.get(kind, usual)


def _set_argument(node: Node, name: str, value: Any) -> None:
    """Set an argument by its schema's name, filling in the defaults before it."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    place = next(i for i, argument in enumerate(schema) if argument.name == name)
    if name in node.kwargs:
        node.kwargs = {**node.kwargs, name: value}
        return
    args = list(node.args)
    while len(args) <= place:
        args.append(
            schema[len(args)].default_value if schema[len(args)].has_default_value() else None
        )
    args[place] = value
    node.args = tuple(args)
