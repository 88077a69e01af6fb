"""Solutions become a new ONNX model; names of initialisers and outputs are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bncheck.folding.algebra import Cast
from bncheck.folding.onnx.cutting import read_instead
from bncheck.folding.onnx.old_forms import along_axis
from bncheck.folding.onnx.sweeping import all_names, sweep, unused
from bncheck.folding.onnx.tiling import moves
from bncheck.folding.planner.normalisations import data_slot
from bncheck.folding.weights import NewWeights, Solution
from bncheck.graph.dataflow import Op
from bncheck.graph.linear import Linear
from bncheck.graph.onnx.nodes import names_in
from bncheck.graph.onnx.read import Part
from bncheck.graph.specs import Add, Bounded, ConvTranspose, Mul, Recurrent
from bncheck.reading.onnx_constants import opset_of
from bncheck.runtime.weights import Weights


def rewrite(
    model: onnx.ModelProto, parts: Sequence[Part], solutions: Sequence[Solution], weights: Weights
) -> Mapping[str, str]:
    """Carry out the plans in place; `parts` are those of this very model, `weights` its numbers.

    Returns the values of the outermost graph that are there under another name now.
    """
    before = set(names_in(model.graph))
    # Inner graphs first: whoever changes a graph's list of nodes gets copies of the graphs inside.
    renamed: Mapping[str, str] = {}
    for part, solution in reversed(list(zip(parts, solutions, strict=True))):
        renamed = _ModelRewriter(model, part.proto, solution, weights).run()
    sweep(model, before)
    return renamed


class _ModelRewriter:
    def __init__(
        self,
        model: onnx.ModelProto,
        proto: onnx.GraphProto,
        solution: Solution,
        weights: Weights,
    ) -> None:
        self.model = model
        self.proto = proto
        self.solution = solution
        self.weights = weights
        self.nodes = list(proto.node)
        self.stored = {tensor.name: tensor for tensor in proto.initializer}
        self.outputs = {output.name for output in proto.output}
        self.made = {name for node in proto.node for name in node.output}
        self.readers = names_in(model.graph)
        self.taken = set(all_names(model.graph))
        #: New numbers by the name of the old ones, or of the weight beside them.
        self.instead: dict[str, list[tuple[str, NDArray[np.generic]]]] = {}
        self.after: dict[int, list[onnx.NodeProto]] = {}
        self.gone: set[int] = set()
        #: Values that get another's name; that one may have got another since.
        self.others: dict[str, str] = {}

    def run(self) -> Mapping[str, str]:
        ops = self.solution.graph.ops
        for index, new in self.solution.weights.items():
            fold = self.solution.plan.folds[index]
            self._reweigh(ops[index], new, shuffles=fold.as_shuffle)
        for (index, slot), number in self.solution.constants.items():
            node = self.nodes[int(ops[index].name)]
            if opset_of(self.model) < 7 and slot == 1 and isinstance(ops[index].spec, (Add, Mul)):
                rank = len(self.solution.graph.shape(ops[index].inputs[0]) or ())
                number = along_axis(node, number, rank)
            bound, spec = self._add(f"{ops[index].label}.constant", number), ops[index].spec
            if isinstance(spec, Bounded):
                _compare(node, spec, bound)
            else:
                node.input[slot] = bound
        for index in sorted(self.solution.plan.bypassed):
            self._bypass(ops[index])
        self._put_in_order()
        renamed = {name: self._now(name) for name in self.others}
        _rename(self.proto, renamed)
        return renamed

    def _put_in_order(self) -> None:
        """Nodes without those that go, and new ones behind those that they belong to.

        protobuf copies what it is given.
        """
        if not self.after:
            for place in sorted(self.gone, reverse=True):
                del self.proto.node[place]
            return
        order = []
        for place, node in enumerate(self.nodes):
            order += [*([] if place in self.gone else [node]), *self.after.get(place, [])]
        del self.proto.node[:]
        self.proto.node.extend(order)

    def _reweigh(self, op: Op, new: NewWeights, *, shuffles: bool) -> None:
        node = self.nodes[int(op.name)]
        given = list(node.input)  # what a weight is repeated to is none of them
        place = given.index(op.inputs[1]) if op.inputs[1] in given else 1
        if new.weight is not None:
            self._set(node, place, op, "weight", new.weight)
        if shuffles:
            assert isinstance(op.spec, ConvTranspose)
            self._as_shuffle(node, op, op.spec)
        if new.bias is not None and node.op_type in ("MatMul", "Einsum"):
            self._add_after(node, op, new.bias)
        elif new.bias is not None and isinstance(op.spec, Recurrent):
            self._set(node, 3, op, "bias", self._with_state(node, new.bias))
        elif new.bias is not None:
            self._set(node, 2, op, "bias", new.bias)
        if isinstance(op.spec, Linear) and new.weight is not None:
            kept = [a for a in node.attribute if a.name not in ("alpha", "beta")]
            del node.attribute[:]
            node.attribute.extend(kept)

    def _with_state(self, node: onnx.NodeProto, bias: Cast) -> Cast:
        """A recurrent layer's bias with that of its state behind it."""
        name = node.input[3] if len(node.input) > 3 else ""
        old, first = self.solution.graph.constant(name), bias.array
        second = np.zeros_like(first) if old is None else old[:, first.shape[1] :]
        return replace(bias, array=np.concatenate([first, second.astype(first.dtype)], axis=1))

    def _set(self, node: onnx.NodeProto, slot: int, op: Op, role: str, number: Cast) -> None:
        """Give a node new numbers: under the old name where nothing else reads it."""
        while len(node.input) <= slot:
            node.input.append("")
        old = node.input[slot]
        if old not in self.stored or self.readers.get(old, 0) != 1:
            node.input[slot] = self._shared(old or f"{role} of {op.inputs[1]}", op, role, number)
            return
        self.stored[old].CopyFrom(self._tensor(old, number))
        # Before IR 4 it is listed as an input, too.
        for info in (*self.proto.input, *self.proto.value_info):
            if info.name == old:
                info.CopyFrom(_info(old, number))

    def _shared(self, old: str, op: Op, role: str, number: Cast) -> str:
        """New numbers of one of the nodes that read the old ones; those with the same share them.

        Otherwise the head of a detector, which runs on five sizes, would be stored five times.
        """
        made = self.instead.setdefault(old, [])
        for name, array in made:
            if array.dtype == number.array.dtype and np.array_equal(array, number.array):
                return name
        made.append((self._add(f"{op.label}.{role}", number), number.array))
        return made[-1][0]

    def _add(self, wish: str, number: Cast) -> str:
        name = unused(wish, self.taken)
        self.proto.initializer.append(self._tensor(name, number))
        if self.model.ir_version < 4:
            self.proto.input.append(_info(name, number))
        return name

    def _tensor(self, name: str, number: Cast) -> onnx.TensorProto:
        if self.proto is self.model.graph:
            return self.weights.tensor(name, number.array)
        return numpy_helper.from_array(np.ascontiguousarray(number.array), name)

    def _add_after(self, node: onnx.NodeProto, op: Op, bias: Cast) -> None:
        result = node.output[0]
        node.output[0] = unused(f"{result}.product", self.taken)
        name = self._add(f"{op.label}.bias", bias)
        added = helper.make_node("Add", [node.output[0], name], [result])
        self.after.setdefault(int(op.name), []).append(added)

    def _as_shuffle(self, node: onnx.NodeProto, op: Op, spec: ConvTranspose) -> None:
        """docs/folding.md, "Tiling"."""
        result = node.output[0]
        node.op_type = "Conv"
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("group", spec.groups))
        last = node.output[0] = unused(f"{result}.tiles", self.taken)
        behind = self.after.setdefault(int(op.name), [])
        tile = spec.stride
        # DepthToSpace knows squares, and the order that is needed from opset 11 on.
        if opset_of(self.model) >= 11 and len(tile) == 2 and tile[0] == tile[1]:
            behind.append(
                helper.make_node("DepthToSpace", [last], [result], blocksize=tile[0], mode="CRD")
            )
            return
        for kind, numbers in moves(tile):
            moved = unused(f"{result}.tiles", self.taken)
            if kind == "Transpose":
                behind.append(helper.make_node(kind, [last], [moved], perm=numbers))
            else:
                shape = self._add(f"{result}.shape", Cast(np.array(numbers), False, 0))
                behind.append(helper.make_node(kind, [last, shape], [moved]))
            last = moved
        behind[-1].output[0] = result

    def _bypass(self, op: Op) -> None:
        """Let the readers of a normalisation read its input; a graph's output keeps its name."""
        node = self.nodes[int(op.name)]
        names = node.input[data_slot(self.solution.graph, op)], node.output[0]
        source, result = map(self._now, names)
        if result in self.outputs and (source in self.outputs or source not in self.made):
            node.CopyFrom(helper.make_node("Identity", names[:1], names[1:]))
            return
        self.gone.add(int(op.name))
        self.made.discard(result)
        old, new = (source, result) if result in self.outputs else (result, source)
        if old in self.made:
            self.made ^= {old, new}
        self.others[old] = new

    def _now(self, name: str) -> str:
        """What a value is called by now."""
        while name in self.others:
            name = self.others[name]
        return name


def _compare(node: onnx.NodeProto, spec: Bounded, bound: str) -> None:
    """Make a Clip a Max or a Min: its own bound can only be a single number."""
    node.op_type = "Min" if math.isinf(spec.low) else "Max"
    del node.attribute[:]
    node.input[:] = [node.input[0], bound]


def _rename(graph: onnx.GraphProto, others: Mapping[str, str]) -> None:
    for node in graph.node:
        for slot, name in enumerate(node.output):
            if name in others:
                node.output[slot] = others[name]
    read_instead(graph, others)


def _info(name: str, number: Cast) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(number.array.dtype)
    return helper.make_tensor_value_info(name, kind, number.array.shape)
