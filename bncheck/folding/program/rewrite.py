"""A solution becomes a new torch.export program; the old one and its tensors stay as they are.

Where a call was the only one to read a parameter, the new numbers take its name. Where others read
it, too, the call gets a parameter of its own, named after the module that made the call.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

from bncheck.folding.algebra import Cast
from bncheck.folding.program.exporting import copied, rebuilt
from bncheck.folding.weights import NewWeights, Solution
from bncheck.graph.dataflow import ConvTranspose, Linear, Op

_PARAMETERS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_WEIGHT_NAMES = {"addmm": ("mat2", "self"), "mm": ("mat2", None), "matmul": ("other", None),
                 "einsum": ("tensors", None), "embedding": ("weight", None)}  # fmt: skip


@dataclass(frozen=True)
class Rewritten:
    """A new program; `twins` names, for each call of the old one, the call that now stands for it.

    A normalisation's twin is the call that made its input.
    """

    program: ExportedProgram
    twins: Mapping[str, str]


def rewrite(program: ExportedProgram, solution: Solution) -> Rewritten:
    """Carry out the plan on a copy of the graph."""
    rewriter = _Rewriter(program, solution)
    new = rewriter.run()
    return Rewritten(new, {old: node.name for old, node in rewriter.nodes.items()})


class _Rewriter:
    def __init__(self, program: ExportedProgram, solution: Solution) -> None:
        self.program = program
        self.solution = solution
        self.graph = copied(program.graph)
        self.nodes: dict[str, Node] = {node.name: node for node in self.graph.nodes}
        self.specs = {
            spec.arg.name: spec
            for spec in program.graph_signature.input_specs
            if hasattr(spec.arg, "name")
        }
        self.state: dict[str, Any] = dict(program.state_dict)
        self.constants: dict[str, Any] = dict(program.constants)
        self.idle = {node.name for node in self.graph.nodes if not node.users}
        self.mode = next(
            node.meta["val"].fake_mode
            for node in self.graph.nodes
            if isinstance(node.meta.get("val"), torch._subclasses.FakeTensor)
        )

    def run(self) -> ExportedProgram:
        ops = self.solution.graph.ops
        for index, new in self.solution.weights.items():
            self._reweigh(ops[index], new, shuffles=self.solution.plan.folds[index].as_shuffle)
        for (index, slot), number in self.solution.constants.items():
            self._replace_constant(ops[index], slot, number)
        for index in sorted(self.solution.plan.bypassed):
            self._bypass(ops[index])
        for index, new in self.solution.rewritten.items():
            self._rewrite_norm(ops[index], new)
        self._sweep()
        specs = [self.specs[node.name] for node in self.graph.nodes if node.op == "placeholder"]
        self.graph.lint()
        copies: dict[int, torch.Tensor] = {}
        for stored, old in ((self.state, self.program.state_dict),
                            (self.constants, self.program.constants)):  # fmt: skip
            for name, value in stored.items():
                if isinstance(value, torch.Tensor) and value is old.get(name):
                    stored[name] = copies.setdefault(id(value), _copy(value))
        return rebuilt(self.program, self.graph, self.state, self.constants, specs)

    def _reweigh(self, op: Op, new: NewWeights, *, shuffles: bool) -> None:
        node = self.nodes[op.name]
        kind = op.kind
        weight_name, bias_name = _WEIGHT_NAMES.get(kind, ("weight", "bias"))
        if kind == "matmul" and self.nodes[op.inputs[1] or ""] is node.args[0]:
            weight_name = "self"
        weight = self._parameter(node, op, 1, "weight", new.weight)
        bias = None
        if new.bias is not None:
            added = replace(new.bias, array=_along(op, new.bias.array))
            bias = self._parameter(node, op, 2, "bias", added)
        if shuffles:
            assert isinstance(op.spec, ConvTranspose)
            self._as_shuffle(node, op.spec, weight, bias)
            return
        if kind == "einsum":
            old = self.nodes[op.inputs[0] or ""]
            operands = [old if item is old else weight for item in node.args[1]]  # type: ignore[union-attr]
            node.args = (node.args[0], operands)
        else:
            _set_argument(node, weight_name, weight)
        if bias_name is None and bias is not None:
            self._add_after(node, bias)
        elif bias_name is not None and (bias is not None or kind != "addmm"):
            _set_argument(node, bias_name, bias)
        if isinstance(op.spec, Linear):
            node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("alpha", "beta")}

    def _parameter(self, node: Node, op: Op, slot: int, role: str, number: Cast) -> Node:
        """The graph input that holds these numbers: the old one where only this call reads it."""
        old = op.input(slot)
        tensor = as_tensor(number)
        value = self.solution.graph.values.get(old) if old is not None else None
        if old is not None and value is not None and value.label:
            holder = self.nodes[old]
            spec = self.specs[old]
            stored = self.state.get(value.label)
            alone = set(holder.users) == {node} and node.all_input_nodes.count(holder) == 1
            if alone and isinstance(stored, torch.Tensor) and not self._is_tied(value.label):
                fits = stored.shape == tensor.shape and stored.dtype == tensor.dtype
                if fits and spec.kind == InputKind.PARAMETER:
                    self.state[value.label] = torch.nn.Parameter(tensor, requires_grad=False)
                    return holder
        return self._new_parameter(f"{op.label}.{role}", tensor)

    def _is_tied(self, target: str) -> bool:
        """Whether another name holds the same tensor."""
        tensor = self.program.state_dict[target]
        return any(
            other is tensor and name != target for name, other in self.program.state_dict.items()
        )

    def _new_parameter(self, wish: str, tensor: torch.Tensor) -> Node:
        target, number = wish, 1
        while target in self.state or target in self.constants:
            target, number = f"{wish}_{number}", number + 1
        self.state[target] = torch.nn.Parameter(tensor, requires_grad=False)
        first = next(n for n in self.graph.nodes if n.name not in self.specs or not self._owns(n))
        with self.graph.inserting_before(first):
            node = self.graph.placeholder("p_" + re.sub(r"\W", "_", target))
        node.meta["val"] = self.mode.from_tensor(tensor, static_shapes=True)
        self.nodes[node.name] = node
        self.specs[node.name] = InputSpec(
            InputKind.PARAMETER, TensorArgument(node.name), target, None
        )
        return node

    def _owns(self, node: Node) -> bool:
        return self.specs[node.name].kind in _PARAMETERS

    def _replace_constant(self, op: Op, slot: int, number: Cast) -> None:
        node = self.nodes[op.name]
        new = self._new_parameter(f"{op.label}.constant", as_tensor(number))
        if op.kind in ("cat", "concat", "concatenate"):
            parts: list[Any] = list(node.args[0])  # type: ignore[arg-type]
            parts[slot] = new
            node.args = (parts, *node.args[1:])
        else:
            node.args = (*node.args[:slot], new, *node.args[slot + 1 :])
            if isinstance(node.target, torch._ops.OpOverload):  # rsub.Scalar takes no tensor
                packet = node.target.overloadpacket
                node.target = getattr(packet, "Tensor", node.target)

    def _bypass(self, op: Op) -> None:
        """Let the readers of a normalisation read its input."""
        slot = 1 if self.solution.graph.is_constant(op.inputs[0]) else 0
        name = op.inputs[slot]
        assert name is not None
        self._replace(op, self._current(name))

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
        aten = torch.ops.aten
        assert op.inputs[0] is not None
        assert new.bias is not None
        node, source = self.nodes[op.name], self._current(op.inputs[0])
        weight = self._new_parameter(f"{op.label}.weight", as_tensor(new.weight))
        bias = self._new_parameter(f"{op.label}.bias", as_tensor(new.bias))
        with self.graph.inserting_before(node):
            if new.bias.array.ndim == 1:
                args = (source, weight, bias, [1, 1], [0, 0], [1, 1], len(new.bias.array))
                made = [self.graph.call_function(aten.conv2d.default, args)]
            else:
                product = self.graph.call_function(aten.mul.Tensor, (source, weight))
                made = [product, self.graph.call_function(aten.add.Tensor, (product, bias))]
        value = node.meta["val"]
        for call in made:
            call.meta = {
                **node.meta,
                "val": value[0] if isinstance(value, (tuple, list)) else value,
            }
        self._replace(op, made[-1])

    def _current(self, name: str) -> Node:
        """The node that now makes a value of the old graph."""
        return self.nodes[name]

    def _add_after(self, node: Node, bias: Node) -> None:
        with self.graph.inserting_after(node):
            added = self.graph.call_function(torch.ops.aten.add.Tensor, (node, bias))
        added.meta = dict(node.meta)
        node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
        self.nodes[node.name] = added

    def _as_shuffle(self, node: Node, spec: ConvTranspose, weight: Node, bias: Node | None) -> None:
        """See algebra.tiling_as_conv."""
        aten, tile = torch.ops.aten, list(spec.stride)
        dims = len(tile)
        ones, zeros = [1] * dims, [0] * dims
        conv = getattr(aten, f"conv{dims}d").default
        arguments = (node.args[0], weight, bias, ones, zeros, ones, spec.groups)
        last = self._call_like(node, conv, arguments)
        if dims == 2 and tile[0] == tile[1]:
            last = self._call_like(node, aten.pixel_shuffle.default, (last, tile[0]))
        else:  # (N, C*r*s, H, W) -> (N, C, r, s, H, W) -> (N, C, H, r, W, s) -> (N, C, H*r, W*s)
            outer = weight.meta["val"].shape[0] // math.prod(tile)
            last = self._call_like(node, aten.unflatten.int, (last, 1, [outer, *tile]))
            pairs = [axis for i in range(2, dims + 2) for axis in (i + dims, i)]
            last = self._call_like(node, aten.permute.default, (last, [0, 1, *pairs]))
            for axis in range(2, dims + 2):
                last = self._call_like(node, aten.flatten.using_ints, (last, axis, axis + 1))
        node.replace_all_uses_with(last)
        self.nodes[node.name] = last

    def _call_like(self, node: Node, target: Any, args: tuple[Any, ...]) -> Node:
        """A new call before a node, as of the same module."""
        with self.graph.inserting_before(node):
            new = self.graph.call_function(target, args)
        new.meta = {k: v for k, v in node.meta.items() if k != "val"}
        fakes = [a.meta["val"] if isinstance(a, Node) else a for a in args]
        shapes = self.mode.shape_env
        # Which kernel would run, torch asks by the batch size, and would forbid the other sizes.
        with self.mode, shapes.suppress_guards() if shapes else contextlib.nullcontext():
            new.meta["val"] = target(*fakes)
        return new

    def _sweep(self) -> None:
        """Remove calls and parameters that nobody reads any more."""
        self.graph.eliminate_dead_code()
        kept_targets = set(self.program.graph_signature.buffers_to_mutate.values())
        dropped = []
        for node in list(self.graph.nodes):
            spec = self.specs.get(node.name)
            if node.op != "placeholder" or spec is None or node.users:
                continue
            if spec.kind in _PARAMETERS and spec.target not in kept_targets:
                if node.name in self.idle:
                    continue
                dropped.append(str(spec.target))
                self._drop(node)
        owners = {name.rpartition(".")[0] for name in dropped}
        counters = {f"{owner}.num_batches_tracked".lstrip(".") for owner in owners}
        for node in list(self.graph.nodes):
            spec = self.specs.get(node.name)
            if node.name in self.idle and spec is not None and spec.target in counters:
                self._drop(node)

    def _drop(self, node: Node) -> None:
        target = str(self.specs[node.name].target)
        self.state.pop(target, None)
        self.constants.pop(target, None)
        self.graph.erase_node(node)


def _along(op: Op, bias: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A bias of a product along another axis than the last, to be added behind it."""
    if not isinstance(op.spec, Linear) or op.spec.axes[1] == -1:
        return bias
    return bias.reshape(-1, *(1,) * (-op.spec.axes[1] - 1))


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of its own: training the model further must not change half of the folded one."""
    new = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(new, requires_grad=False)
    return new


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


def as_tensor(number: Cast) -> torch.Tensor:
    """NumPy has no bfloat16 that torch knows, but its bits."""
    array = np.ascontiguousarray(number.array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
