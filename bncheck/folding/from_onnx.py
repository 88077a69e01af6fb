"""An ONNX model as the planner's graphs: one for the model, one for each graph inside it.

An operation's name is its node's place in its graph. A value that a branch takes from the graph
around it is an input there, and so stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.folding.dataflow import (
    Add,
    Average,
    Concat,
    Conv,
    ConvTranspose,
    Dim,
    Expand,
    Floats,
    Graph,
    Identity,
    Linear,
    Maximum,
    Mul,
    Norm,
    Op,
    Opaque,
    Pad,
    PixelShuffle,
    Rectifier,
    Reshape,
    ShapeOf,
    Spec,
    Split,
    Transpose,
    Value,
)
from bncheck.reading.onnx_file import round_to_decimal

_FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
_RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_SAME_SHAPE = {"BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Identity",
               "Dropout", "Clip", "HardSigmoid", "HardSwish", "Elu"}  # fmt: skip
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
           "Multinomial"}  # fmt: skip
#: Constant though its inputs are: a model that keeps small integers is to keep them.
_QUANTISED = {"DequantizeLinear"}
_OVERRIDABLE = (
    "its parameters are inputs of the model, too, which a caller may override. Export with "
    "keep_initializers_as_inputs=False to let it be folded"
)
_ROLES = (".running_mean", "/running_mean", "_running_mean", ".running_var", "/running_var",
          "_running_var", ".weight", "/weight", "_weight", ".bias")  # fmt: skip


class Scope:
    """A graph, what it may read of the graphs around it, and the planner's view of it."""

    def __init__(self, proto: onnx.GraphProto, model: onnx.ModelProto, outer: Scope | None) -> None:
        self.proto = proto
        self.outer = outer
        self.opset = opset_of(model)
        self._model = model
        self.values: dict[str, Value] = dict(outer.values) if outer else {}
        self.numbers: dict[str, Callable[[], Any]] = dict(outer.numbers) if outer else {}
        # Before IR 4 every initialiser had to be listed as an input; since then, what is listed is
        # a default that the caller may replace.
        listed = {i.name for i in proto.input} if model.ir_version >= 4 else set()
        stored = {tensor.name for tensor in proto.initializer}
        self.overridable: set[str] = (outer.overridable if outer else set()) | (listed & stored)
        for info in (*proto.value_info, *proto.input, *proto.output):
            self.numbers.pop(info.name, None)  # a name of its own, whatever it means outside
            self._describe(info)
        for tensor in proto.initializer:
            shape = tuple(tensor.dims)
            if tensor.name not in self.overridable:
                self._fix(tensor.name, lambda t=tensor: numpy_helper.to_array(t))  # type: ignore[misc]
            dtype = _FLOATS.get(tensor.data_type, "")
            self.values[tensor.name] = self._value(tensor.name, shape, dtype)
        self.graph = self._read()

    def _describe(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        shape: tuple[Dim, ...] | None = None
        if kind.HasField("shape"):
            shape = tuple(_dim(d, f"?{info.name}.{i}") for i, d in enumerate(kind.shape.dim))
        self.values[info.name] = Value(info.name, shape, _FLOATS.get(kind.elem_type, ""))

    def _fix(self, name: str, numbers: Callable[[], Any]) -> None:
        self.numbers[name] = lru_cache(maxsize=None)(numbers)

    def _value(self, name: str, shape: tuple[Dim, ...] | None, dtype: str) -> Value:
        numbers = self.numbers.get(name)
        if numbers is None:
            return Value(name, shape, dtype)

        def floats() -> Floats:
            return np.asarray(numbers()).astype(np.float64)

        return Value(name, shape, dtype, floats, name)

    def _read(self) -> Graph:
        ops: list[Op] = []
        labels: dict[str, int] = {}
        for place, node in enumerate(self.proto.node):
            if self._is_fixed(node):
                self._fix_outputs(node)
                continue
            for name in node.output:
                self.values.setdefault(name, Value(name, None, ""))
            self._complete(node)
            spec, count = describe(node, self)
            inputs = [name or None for name in node.input]
            if isinstance(spec, ShapeOf):
                outputs = list(node.output)
            else:
                inputs = [*inputs[:count], *inputs[count:], *captured(node)]
                outputs = [name for name in node.output if name]
            label = self._label(node, spec)
            labels[label] = labels.get(label, 0) + 1
            ops.append(Op(str(place), spec, tuple(inputs), tuple(outputs), label, node.op_type))
        found = frozenset(o.name for o in self.proto.output)
        return Graph(tuple(ops), self.values, found)

    def _complete(self, node: onnx.NodeProto) -> None:
        """Rank and channels where onnx lost them behind a computed reshape: a weight tells them."""
        if not node.output or self.shape(node.output[0]) is not None:
            return
        source = self.values.get(node.input[0]) if node.input else None
        shape: tuple[Dim, ...] | None = None
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = self.shape(node.input[1])
            if weight:
                group = _Attributes(node)("group", 1)
                wide = weight[1] if isinstance(weight[1], int) else 0
                channels = weight[0] if node.op_type == "Conv" else wide * group
                rest = tuple(f"?{node.output[0]}.{i}" for i in range(2, len(weight)))
                shape = (f"?{node.output[0]}.0", channels, *rest)
        elif node.op_type in _SAME_SHAPE and source is not None:
            shape = source.shape
        weighs = node.op_type in ("Conv", "ConvTranspose") and node.input[1] in self.values
        known = self.values[node.input[1]] if weighs else source
        if shape is not None and known is not None:
            name = node.output[0]
            self.values[name] = Value(name, shape, self.values[name].dtype or known.dtype)

    def _is_fixed(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Constant":
            return True
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        return (
            not inner
            and node.domain in ("", "ai.onnx")  # others have no reference to compute them with
            and node.op_type not in _RANDOM | _QUANTISED
            and bool(node.input)
            and all(not name or name in self.numbers for name in node.input)
        )

    def _fix_outputs(self, node: onnx.NodeProto) -> None:
        results = lru_cache(maxsize=None)(lambda: self._run(node))
        for i, name in enumerate(node.output):
            self._fix(name, lambda i=i: results()[i])  # type: ignore[misc]
            known = self.values.get(name)
            shape, dtype = (known.shape, known.dtype) if known else (None, "")
            if shape is None:
                array = np.asarray(self.numbers[name]())
                shape, dtype = array.shape, array.dtype.name
            self.values[name] = self._value(name, shape, dtype)

    def _run(self, node: onnx.NodeProto) -> list[Any]:
        from onnx.reference import ReferenceEvaluator

        names = list(dict.fromkeys(name for name in node.input if name))
        inputs = [helper.make_empty_tensor_value_info(name) for name in names]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=max(self._model.ir_version, 4)
        )
        return list(
            ReferenceEvaluator(model).run(None, {name: self.numbers[name]() for name in names})
        )

    def _label(self, node: onnx.NodeProto, spec: Spec) -> str:
        slots = (3, 1) if isinstance(spec, Norm) else (1,)
        if isinstance(spec, (Norm, Conv, ConvTranspose, Linear)):
            for slot in slots:
                name = node.input[slot] if len(node.input) > slot else ""
                for role in _ROLES:
                    if name.endswith(role) and len(name) > len(role):
                        return name[: -len(role)]
        return node.name or next((n for n in node.output if n), node.op_type)

    def fixed(self, name: str) -> Any:
        """The numbers of a constant, None where it is none."""
        return self.numbers[name]() if name in self.numbers else None

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """A value's shape, None where nothing is known."""
        value = self.values.get(name)
        return value.shape if value else None

    def rank(self, name: str) -> int:
        """A value's rank; 0 where nothing is known."""
        return len(self.shape(name) or ())


def read_model(model: onnx.ModelProto) -> list[Scope]:
    """The model's graph and all inside it, outer ones first; shapes are inferred on a copy."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # an operator that it does not know: what has no shape is not folded
        inferred = model
    return list(_scopes(model.graph, inferred.graph, model, None))


def _scopes(
    proto: onnx.GraphProto, known: onnx.GraphProto, model: onnx.ModelProto, outer: Scope | None
) -> Iterator[Scope]:
    described = onnx.GraphProto()
    described.CopyFrom(known)
    scope = Scope(described, model, outer)
    scope.proto = proto  # the user's own, without inferred shapes
    yield scope
    for node, twin in zip(proto.node, known.node, strict=True):
        for mine, other in zip(node.attribute, twin.attribute, strict=True):
            pairs = [(mine.g, other.g)] if mine.HasField("g") else []
            pairs += list(zip(mine.graphs, other.graphs, strict=True))
            for inner, its_twin in pairs:
                yield from _scopes(inner, its_twin, model, scope)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    found = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(max(found, default=1))


def captured(node: onnx.NodeProto) -> list[str]:
    """What the graphs inside a node read of the graphs around it."""
    found: list[str] = []
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            reads = [name for inner in graph.node for name in (*inner.input, *captured(inner))]
            reads += [output.name for output in graph.output]
            found += [name for name in reads if name and name not in own]
    return found


def _dim(dim: Any, unknown: str) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else unknown


class _Attributes:
    def __init__(self, node: onnx.NodeProto) -> None:
        self._given = {a.name: a for a in node.attribute}

    def __call__(self, name: str, default: Any = None) -> Any:
        if name not in self._given:
            return default
        value = helper.get_attribute_value(self._given[name])
        return value.decode() if isinstance(value, bytes) else value


def describe(node: onnx.NodeProto, scope: Scope) -> tuple[Spec, int]:
    """What a node is to the planner, and how many of its inputs belong to that."""
    if node.domain not in ("", "ai.onnx"):
        return Opaque(node.op_type), len(node.input)
    attributes = _Attributes(node)
    for family in (_linear_algebra, _norms, _elementwise, _views, _pooling):
        spec = family(node, scope, attributes)
        if spec is not None:
            return spec, len(node.input)
    return Opaque(node.op_type), len(node.input)


def _linear_algebra(node: onnx.NodeProto, scope: Scope, a: _Attributes) -> Spec | None:
    kind = node.op_type
    if kind in ("Conv", "ConvTranspose"):
        shape = scope.shape(node.input[1])
        if shape is None:
            return None
        kernel = shape[2:]
        if kind == "ConvTranspose":
            return _transposed(scope, a, kernel)
        same = str(a("auto_pad", "NOTSET")).startswith("SAME") and set(kernel) != {1}
        return Conv(int(a("group", 1)), bool(same or any(a("pads", ()))))
    if kind == "Gemm" and not a("transA", 0):
        bias = scope.shape(node.input[2]) if len(node.input) > 2 and node.input[2] else ()
        if bias is None or (len(bias) > 1 and bias[0] != 1):
            return None
        return Linear(bool(a("transB", 0)), float(a("alpha", 1.0)), float(a("beta", 1.0)))
    if kind == "MatMul" and scope.rank(node.input[1]) == 2 and scope.rank(node.input[0]) >= 1:
        return Linear(output_first=False)
    return None


def _transposed(scope: Scope, a: _Attributes, kernel: tuple[Dim, ...]) -> Spec:
    stride = tuple(a("strides", [1] * len(kernel)))
    tiles = (
        stride == kernel
        and not any(a("pads", ()))
        and not any(a("output_padding", ()))
        and a("output_shape") is None
        and a("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and set(a("dilations", [1])) == {1}
        and (scope.opset >= 11 or set(kernel) == {1})  # DepthToSpace knows CRD from there on
    )
    return ConvTranspose(int(a("group", 1)), tiles, stride if tiles else ())


def _norms(node: onnx.NodeProto, scope: Scope, a: _Attributes) -> Spec | None:
    eps = round_to_decimal(a("epsilon", 1e-5))
    if node.op_type == "InstanceNormalization":
        return Norm(eps, True, "it normalises each image with its own statistics")
    if node.op_type != "BatchNormalization":
        return None
    if a("spatial", 1) == 0:
        return None
    if any(name in scope.overridable for name in node.input[1:]):
        return Norm(eps, True, _OVERRIDABLE)
    if scope.opset >= 14:
        trains = bool(a("training_mode", 0))
    elif scope.opset < 7:
        trains = not a("is_test", 0)
    else:
        trains = len([name for name in node.output if name]) > 1
    why = "it normalises with the statistics of the batch: it was exported in training mode"
    return Norm(eps, trains, why)


def _elementwise(node: onnx.NodeProto, scope: Scope, a: _Attributes) -> Spec | None:
    kind = node.op_type
    if scope.opset < 7 and a("broadcast") is not None:
        return None
    if kind in ("Add", "Sub") or (kind == "Sum" and len(node.input) == 2):
        return Add((1.0, -1.0 if kind == "Sub" else 1.0))
    if kind in ("Mul", "Div"):
        return Mul(divides=kind == "Div")
    return Rectifier(kind) if kind in ("Relu", "LeakyRelu") else None


def _views(node: onnx.NodeProto, scope: Scope, a: _Attributes) -> Spec | None:
    kind = node.op_type
    source = node.input[0] if node.input else ""
    rank = scope.rank(source)
    if kind in ("Shape", "Size"):
        return ShapeOf()
    if kind == "Identity" or (kind == "Dropout" and _is_idle(node, scope)):
        return Identity()
    if kind == "Cast":
        source_dtype = scope.values[source].dtype if source in scope.values else ""
        return Identity() if source_dtype and a("to") in _FLOATS else None
    if kind in _RESHAPES:
        return Reshape()
    if kind == "Transpose" and rank:
        return Transpose(tuple(a("perm", range(rank - 1, -1, -1))))
    if kind == "Expand":
        return Expand()
    if kind == "Concat" and rank:
        return Concat(int(a("axis", 1)) % rank)
    if kind == "Split" and rank:
        return _split(node, scope, int(a("axis", 0)) % rank)
    if kind == "Slice" and rank:
        return _slice(node, scope, a, rank)
    if kind == "DepthToSpace" and a("mode", "DCR") == "CRD":
        return PixelShuffle(int(a("blocksize")))
    return None


def _is_idle(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether a Dropout is in inference mode."""
    if scope.opset < 7:
        return bool(_Attributes(node)("is_test", 0))
    if scope.opset < 12:
        return True
    if len(node.input) < 3 or not node.input[2]:
        return True
    mode = scope.fixed(node.input[2])
    return mode is not None and not bool(np.any(mode))


def _split(node: onnx.NodeProto, scope: Scope, axis: int) -> Spec | None:
    parts, start = [], 0
    for name in node.output:
        shape = scope.shape(name)
        size = shape[axis] if shape else None
        if not isinstance(size, int):
            return None
        parts.append(slice(start, start + size))
        start += size
    return Split(axis, tuple(parts))


def _slice(node: onnx.NodeProto, scope: Scope, a: _Attributes, rank: int) -> Spec | None:
    """A slice along one axis, forwards."""
    given: list[Any] = [a(name) for name in ("starts", "ends", "axes")] + [None]
    for slot, name in enumerate(node.input[1:5]):
        if name:
            numbers = scope.fixed(name)
            if numbers is None:
                return None
            given[slot] = [int(n) for n in np.asarray(numbers).reshape(-1)]
    starts, ends, axes, steps = given
    if starts is None or ends is None or len(starts) != 1:
        return None
    step = steps[0] if steps else 1
    return Split((axes or [0])[0] % rank, (slice(starts[0], ends[0], step),)) if step > 0 else None


def _axes(node: onnx.NodeProto, scope: Scope, a: _Attributes, rank: int) -> tuple[int, ...] | None:
    axes = a("axes")
    if len(node.input) > 1 and node.input[1]:
        axes = scope.fixed(node.input[1])
        if axes is None:
            return None
    if axes is None or not len(axes):
        return None if a("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(axis) % rank for axis in axes))


def _pooling(node: onnx.NodeProto, scope: Scope, a: _Attributes) -> Spec | None:
    kind = node.op_type
    rank = scope.rank(node.input[0]) if node.input else 0
    if not rank:
        return None
    spatial = tuple(range(2, rank))
    if kind in ("GlobalAveragePool", "GlobalMaxPool"):
        return Average(spatial) if kind == "GlobalAveragePool" else Maximum(spatial)
    if kind == "AveragePool":
        padded = any(a("pads", ())) or str(a("auto_pad", "NOTSET")).startswith("SAME")
        # With ceil_mode, too, windows may reach beyond the input, and runtimes count differently.
        reaches = padded or a("ceil_mode", 0)
        return Average(spatial, bool(reaches and a("count_include_pad", 0)))
    if kind == "MaxPool" and len([name for name in node.output if name]) == 1:
        return Maximum(spatial)
    if kind in ("ReduceMean", "ReduceMax"):
        axes = _axes(node, scope, a, rank)
        drops = not a("keepdims", 1)
        if axes is None:
            return None
        return Average(axes, drops=drops) if kind == "ReduceMean" else Maximum(axes, drops)
    if kind in ("Resize", "Upsample"):
        shapes = scope.shape(node.input[0]), scope.shape(node.output[0])
        cuts = a("coordinate_transformation_mode") == "tf_crop_and_resize"
        if cuts or shapes[0] is None or shapes[1] is None or shapes[0][1] != shapes[1][1]:
            return None
        return Average(spatial)
    return _pad(node, scope, a, rank) if kind == "Pad" else None


def _pad(node: onnx.NodeProto, scope: Scope, a: _Attributes, rank: int) -> Spec | None:
    amounts: Any = a("pads")
    value: Any = a("value", 0.0)
    if len(node.input) > 1:
        amounts = scope.fixed(node.input[1])
    if len(node.input) > 2 and node.input[2]:
        value = scope.fixed(node.input[2])
    if amounts is None or value is None or (len(node.input) > 3 and node.input[3]):
        return None
    axes = tuple(i for i in range(rank) if amounts[i] != 0 or amounts[i + rank] != 0)
    constant = a("mode", "constant") == "constant"
    return Pad(axes, float(np.asarray(value).reshape(-1)[0]) if constant else None)


def names_in(graph: onnx.GraphProto) -> Mapping[str, int]:
    """How often each value is read in a graph and in those inside it."""
    found: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            found[name] = found.get(name, 0) + 1
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for other in [*inner, *attribute.graphs]:
                for name, number in names_in(other).items():
                    found[name] = found.get(name, 0) + number
    for output in graph.output:
        found[output.name] = found.get(output.name, 0) + 1
    return found
