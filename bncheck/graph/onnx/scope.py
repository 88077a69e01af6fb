"""The names of an ONNX graph: what their values are like, and the numbers of the fixed ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bncheck.graph.dataflow import Dim, Floats, Shape, Value
from bncheck.graph.onnx.nodes import FLOATS, captured, dim_of
from bncheck.reading.onnx_constants import Constant, Resolver


class Scope:
    """The names that a graph knows, with those of the graphs around it.

    `known` is the same graph with the shapes that could be inferred; what is around it is another
    graph or, for the outermost, what finds the constants of the model.
    """

    def __init__(
        self,
        proto: onnx.GraphProto,
        known: onnx.GraphProto,
        ir_version: int,
        around: Scope | Resolver,
    ) -> None:
        outer = around if isinstance(around, Scope) else None
        self.resolver: Resolver = around.resolver if isinstance(around, Scope) else around
        self.values: dict[str, Value] = dict(outer.values) if outer else {}
        self.constants: dict[str, Constant] = dict(outer.constants) if outer else {}
        self.sizes: dict[str, tuple[Dim, ...]] = dict(outer.sizes) if outer else {}
        self.overridable: set[str] = set(outer.overridable) if outer else set()
        #: Values that sum to 1 along their last axis.
        self.shares: set[str] = set(outer.shares) if outer else set()
        #: The fixed values that others repeat along axes.
        self.repeated: dict[str, str] = dict(outer.repeated) if outer else {}
        # Before IR 4 every initialiser had to be listed as an input; since then, what is listed is
        # a default that the caller may replace.
        if ir_version >= 4:
            stored = {tensor.name for tensor in proto.initializer}
            self.overridable |= stored.intersection(info.name for info in proto.input)
        for info in (*known.value_info, *proto.input, *known.output):
            self.constants.pop(info.name, None)  # a name of its own, whatever it means outside
            self._describe(info)
        for tensor in proto.initializer:
            self._store(tensor)
        for sparse in proto.sparse_initializer:
            self._store_sparse(sparse)
        self._parameters = _parameters(proto)
        self._read = {name for node in proto.node for name in (*node.input, *captured(node))}
        self._read |= {output.name for output in proto.output}

    def _store(self, tensor: onnx.TensorProto) -> None:
        constant = self.resolver.stored(tensor.name, tensor)
        self._fix(tensor.name, constant)
        if tensor.name in self.overridable:
            del self.constants[tensor.name]
            dtype = self.values[tensor.name].dtype
            value = Value(tensor.name, constant.shape, dtype, overridable=True)
            self.values[tensor.name] = value

    def _store_sparse(self, tensor: onnx.SparseTensorProto) -> None:
        name, dtype = tensor.values.name, FLOATS.get(tensor.values.data_type, "")
        shape = tuple(int(size) for size in tensor.dims)
        self.values[name] = Value(name, shape, dtype, label=name, sparse=True)

    def results(self, node: onnx.NodeProto) -> list[str]:
        """A node's first result, and those others that somebody reads."""
        return [
            name for i, name in enumerate(node.output) if name and (i == 0 or name in self._read)
        ]

    def _describe(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        shape: tuple[Dim, ...] | None = None
        if kind.HasField("shape"):
            shape = tuple(dim_of(d, f"?{info.name}.{i}") for i, d in enumerate(kind.shape.dim))
        self.values[info.name] = Value(info.name, shape, FLOATS.get(kind.elem_type, ""))

    def _fix(self, name: str, constant: Constant, origin: tuple[str, ...] = ()) -> None:
        def floats() -> Floats:
            return np.asarray(constant.read()).astype(np.float64)

        self.constants[name] = constant
        dtype = FLOATS.get(constant.dtype, "")
        self.values[name] = Value(
            name,
            constant.shape,
            dtype,
            floats,
            name,
            constant.read,
            made_from=tuple(dict.fromkeys(origin)),
        )

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.resolver.opset

    def fix(self, node: onnx.NodeProto) -> bool:
        """Keep a node's results where their numbers can be known now, and say whether they can."""
        results = self._sizes(node) or self.resolver.outputs(node, self.constants)
        if results and self._is_kept(node):
            name, constant = node.output[0], results[0]
            dtype = FLOATS.get(constant.dtype, "")
            self.values[name] = Value(name, constant.shape, dtype, quantised=True)
            return False
        for name, constant in zip(node.output, results or (), strict=False):
            self._fix(name, constant, tuple(self._origin(node)))
        return bool(results)

    def _origin(self, node: onnx.NodeProto) -> Iterator[str]:
        """The stored tensors that a node's fixed numbers are computed from."""
        for name in filter(None, node.input):
            yield from self.values[name].made_from or (name,)

    def _is_kept(self, node: onnx.NodeProto) -> bool:
        """A model that keeps small integers is to keep them, but for a normalisation's numbers."""
        return node.op_type == "DequantizeLinear" and node.output[0] not in self._parameters

    def _sizes(self, node: onnx.NodeProto) -> Sequence[Constant] | None:
        """What a node reads off a shape, where these sizes are known."""
        name = next(iter(node.output), "")
        sizes = self.sizes.get(name) if node.op_type in ("Shape", "Gather") else None
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            return None
        numbers = np.array(sizes, dtype=np.int64)
        if node.op_type == "Gather":
            numbers = numbers.reshape(np.shape(self.fixed(node.input[1])))
        return [self.resolver.stored(name, numpy_helper.from_array(numbers))]

    def sizes_in(self, name: str) -> tuple[Dim, ...] | None:
        """The sizes that a value holds, be it fixed or followed."""
        if name in self.sizes:
            return self.sizes[name]
        numbers = self.fixed(name)
        if numbers is None or np.asarray(numbers).dtype.kind != "i" or np.size(numbers) > 64:
            return None
        return tuple(int(number) for number in np.ravel(numbers))

    def derived(self, name: str, numbers: Callable[[], Floats], shape: Shape, like: str) -> str:
        """A constant that no node holds, for the planner alone, of another value's dtype."""
        self.values[name] = Value(name, shape, self.values[like].dtype, numbers)
        return name

    def minus_one(self, result: str) -> str:
        """What Neg multiplies with."""
        return self.derived(f"{result}:-1", lambda: np.asarray(-1.0), (), result)

    def fixed(self, name: str) -> Any:
        """The numbers of a constant, None where it is none."""
        return self.constants[name].read() if name in self.constants else None

    def is_stored(self, name: str) -> bool:
        """Whether a value has numbers, even ones that a caller may replace."""
        return name in self.constants or name in self.overridable

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """A value's shape, None where nothing is known."""
        value = self.values.get(name)
        return value.shape if value else None

    def rank(self, name: str) -> int:
        """A value's rank; 0 where nothing is known."""
        return len(self.shape(name) or ())


def _parameters(proto: onnx.GraphProto) -> set[str]:
    """What only BatchNormalizations read."""
    reads = Counter(name for node in proto.node for name in (*node.input, *captured(node)))
    norms = [node for node in proto.node if node.op_type == "BatchNormalization"]
    found = Counter(name for node in norms for name in node.input[1:])
    return {name for name, times in found.items() if times == reads[name]}
