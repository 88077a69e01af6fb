"""Solutions become a new ONNX model; names of initialisers and outputs are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.folding.algebra import Cast
from bncheck.folding.onnx.old_forms import along_axis
from bncheck.folding.onnx.sweeping import all_names, sweep
from bncheck.folding.onnx.tiling import moves
from bncheck.folding.planner.normalisations import data_slot
from bncheck.folding.weights import NewWeights, Solution
from bncheck.graph.dataflow import Op
from bncheck.graph.linear import Linear
from bncheck.graph.onnx.nodes import names_in
from bncheck.graph.onnx.read import Part
from bncheck.graph.specs import Add, ConvTranspose, Mul, Recurrent
from bncheck.reading.onnx_constants import opset_of
from bncheck.reading.onnx_file import graphs_of


def rewrite(
    model: onnx.ModelProto, parts: Sequence[Part], solutions: Sequence[Solution]
) -> Mapping[str, str]:
    """Carry out the plans in place; `parts` are those of this very model.

    Returns the values of the outermost graph that are there under another name now.
    """
    before = set(names_in(model.graph))
    # Inner graphs first: whoever changes a graph's list of nodes gets copies of the graphs inside.
    renamed: Mapping[str, str] = {}
    for part, solution in reversed(list(zip(parts, solutions, strict=True))):
        renamed = _ModelRewriter(model, part.proto, solution).run()
    sweep(model, before)
    return renamed


class _ModelRewriter:
    def __init__(self, model: onnx.ModelProto, proto: onnx.GraphProto, solution: Solution) -> None:
        self.model = model
        self.proto = proto
        self.solution = solution
        self.nodes = list(proto.node)
        self.readers = names_in(model.graph)
        self.taken = set(all_names(model.graph))
        self.after: dict[int, list[onnx.NodeProto]] = {}
        self.renamed: dict[str, str] = {}

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
            node.input[slot] = self._add(f"{ops[index].label}.constant", number)
        self._insert()
        for index in sorted(self.solution.plan.bypassed):
            self._bypass(ops[index])
        return self.renamed

    def _insert(self) -> None:
        """Put new nodes behind those that they belong to; protobuf copies what it is given."""
        if not self.after:
            return
        order: list[onnx.NodeProto] = []
        places = []
        for place, node in enumerate(self.nodes):
            places.append(len(order))
            order += [node, *self.after.get(place, [])]
        del self.proto.node[:]
        self.proto.node.extend(order)
        self.nodes = [self.proto.node[place] for place in places]

    def _reweigh(self, op: Op, new: NewWeights, *, shuffles: bool) -> None:
        node = self.nodes[int(op.name)]
        given = list(node.input)  # what a weight is repeated to is none of them
        place = given.index(op.inputs[1]) if op.inputs[1] in given else 1
        if new.weight is not None:
            self._set(node, place, f"{op.label}.weight", new.weight)
        if shuffles:
            assert isinstance(op.spec, ConvTranspose)
            self._as_shuffle(node, op, op.spec)
        if new.bias is not None and node.op_type in ("MatMul", "Einsum"):
            self._add_after(node, op, new.bias)
        elif new.bias is not None and isinstance(op.spec, Recurrent):
            self._set(node, 3, f"{op.label}.bias", self._with_state(node, new.bias))
        elif new.bias is not None:
            self._set(node, 2, f"{op.label}.bias", new.bias)
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

    def _set(self, node: onnx.NodeProto, slot: int, wish: str, number: Cast) -> None:
        """Give a node new numbers: under the old name where nothing else reads it."""
        while len(node.input) <= slot:
            node.input.append("")
        old = node.input[slot]
        for tensor in self.proto.initializer:
            if tensor.name == old and self.readers.get(old, 0) == 1:
                tensor.CopyFrom(_tensor(old, number))
                # Before IR 4 it is listed as an input, too.
                for info in (*self.proto.input, *self.proto.value_info):
                    if info.name == old:
                        info.CopyFrom(_info(old, number))
                return
        node.input[slot] = self._add(wish, number)

    def _add(self, wish: str, number: Cast) -> str:
        name = self._unused(wish)
        self.proto.initializer.append(_tensor(name, number))
        if self.model.ir_version < 4:
            self.proto.input.append(_info(name, number))
        return name

    def _unused(self, wish: str) -> str:
        name, count = wish, 1
        while name in self.taken:
            name, count = f"{wish}_{count}", count + 1
        self.taken.add(name)
        return name

    def _add_after(self, node: onnx.NodeProto, op: Op, bias: Cast) -> None:
        result = node.output[0]
        node.output[0] = self._unused(f"{result}.product")
        name = self._add(f"{op.label}.bias", bias)
        added = helper.make_node("Add", [node.output[0], name], [result])
        self.after.setdefault(int(op.name), []).append(added)

    def _as_shuffle(self, node: onnx.NodeProto, op: Op, spec: ConvTranspose) -> None:
        """docs/folding.md, "Tiling"."""
        result = node.output[0]
        node.op_type = "Conv"
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("group", spec.groups))
        last = node.output[0] = self._unused(f"{result}.tiles")
        behind = self.after.setdefault(int(op.name), [])
        tile = spec.stride
        # DepthToSpace knows squares, and the order that is needed from opset 11 on.
        if opset_of(self.model) >= 11 and len(tile) == 2 and tile[0] == tile[1]:
            behind.append(
                helper.make_node("DepthToSpace", [last], [result], blocksize=tile[0], mode="CRD")
            )
            return
        for kind, numbers in moves(tile):
            moved = self._unused(f"{result}.tiles")
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
        source, result = node.input[data_slot(self.solution.graph, op)], node.output[0]
        outputs = {o.name for o in self.proto.output}
        makers = {name for other in self.proto.node for name in other.output}
        if result in outputs and (source in outputs or source not in makers):
            node.CopyFrom(helper.make_node("Identity", [source], [result]))
            return
        index = next(i for i, other in enumerate(self.proto.node) if other.output[:1] == [result])
        del self.proto.node[index]
        old, new = (source, result) if result in outputs else (result, source)
        _rename(self.proto, old, new)
        self.renamed = {k: new if v == old else v for k, v in self.renamed.items()} | {old: new}
        self.nodes = [_renamed(other, old, new) for other in self.nodes]


def _renamed(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    for names in (node.input, node.output):
        for i, name in enumerate(names):
            if name == old:
                names[i] = new
    return node


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for inner in graphs_of(graph):
        for node in inner.node:
            _renamed(node, old, new)
        if inner is not graph:
            for output in inner.output:
                if output.name == old:
                    output.name = new


def _tensor(name: str, number: Cast) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(number.array), name)


def _info(name: str, number: Cast) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(number.array.dtype)
    return helper.make_tensor_value_info(name, kind, number.array.shape)
