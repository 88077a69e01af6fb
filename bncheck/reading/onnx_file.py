"""ONNX models: initialisers as tensors, normalisation nodes as layers.

External data is read here and not by onnx, because the model may say where it lies: only a file in
the model's own folder is read. A symbolic link is followed where model and data end up in one
folder, as in the Hugging Face cache, whose files are all links into `blobs`.
"""

from __future__ import annotations

import math
import os
from collections import ChainMap
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_DEPTH, MAX_ONNX_BYTES
from bncheck.reading.checkpoint import NormModule, Subtree
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.protobuf import check_size, has_graph, schema_of
from bncheck.reading.source import Source
from bncheck.reading.tensors import LazyTensor, LoadedTensor, checked_shape

if TYPE_CHECKING:
    import onnx

    from bncheck.reading.tensors import Array

#: Names in a graph to names in the file.
Scope: TypeAlias = "ChainMap[str, str]"

#: Input names of the nodes that carry parameters: https://onnx.ai/onnx/operators/
_INPUTS: Final = {
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
    "InstanceNormalization": ("", "weight", "bias"),
    "GroupNormalization": ("", "weight", "bias"),
    "LayerNormalization": ("", "weight", "bias"),
}


class ModelFolder:
    """Where a model's external data may lie; each of its files is opened once."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self._budget = budget
        self._files: dict[str, Source] = {}

    def open(self, location: str) -> Source:
        """The data file of that name. Raises BncheckError for one outside the model's folder."""
        if location not in self._files:
            self._files[location] = Source.open(_external_file(self._path, location), self._budget)
        return self._files[location]


def parse_model(source: Source) -> onnx.ModelProto:
    """The message in a file, once it is known not to be a bomb. Raises protobuf's DecodeError."""
    import onnx

    data = source.numbers(0, source.size)
    check_size(data, schema_of(onnx.ModelProto.DESCRIPTOR))
    model = onnx.ModelProto()
    model.ParseFromString(data)
    return model


def read_onnx(source: Source, path: Path) -> list[Subtree] | None:
    """The model, or None for bytes that are no ONNX model (protobuf accepts nearly anything)."""
    if source.size > MAX_ONNX_BYTES or not has_graph(source):
        return None
    from google.protobuf.message import DecodeError

    try:
        model = parse_model(source)
    except DecodeError:
        return None
    if not model.ir_version or not model.HasField("graph") or not model.graph.node:
        return None
    if any(n.op_type == "BatchNormalization" for f in model.functions for n in f.node):
        raise BncheckError(
            "keeps BatchNorms in functions, where bncheck does not look",
            "inline them: onnx.inliner.inline_local_functions",
        )
    folder = ModelFolder(path, source.budget)
    tensors: dict[str, LazyTensor] = {}
    modules: dict[str, NormModule] = {}
    unused = _Names()
    opset = max([o.version for o in model.opset_import if o.domain in ("", "ai.onnx")], default=1)
    for graph, scope in _graphs(model.graph):
        for name, tensor in _constants(graph):
            scope[name] = unused.name(name, tensors)
            tensors[scope[name]] = LoadedTensor(
                partial(load_tensor, tensor, folder), checked_shape(tensor.dims)
            )
        for node in graph.node:
            # Exporters share equal initialisers through Identity nodes.
            if node.op_type == "Identity" and node.input and node.output:
                source_name = _text(node.input[0])
                if source_name in scope:
                    scope[_text(node.output[0])] = scope[source_name]
            if is_norm_class(_text(node.op_type)):
                layer = _norm_module(node, scope, opset)
                modules[unused.name(_layer_name(node, layer), modules)] = layer
    return [Subtree("", tensors, modules)]


def _text(name: str | bytes) -> str:
    """protobuf hands out names that are no UTF-8 as bytes."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initialisers, and the values of Constant nodes."""
    for tensor in graph.initializer:
        yield _text(tensor.name), tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.HasField("t"):
                    yield _text(node.output[0]), attribute.t


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its If, Loop and Scan nodes."""
    return (inner for inner, _ in _graphs(graph))


def _graphs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, Scope]]:
    """The graph and those inside its If, Loop and Scan nodes, each with its scope.

    An inner graph sees the names around it and may use them again for something else; a scope
    maps them to names that are unique in the file.
    """
    stack: list[tuple[onnx.GraphProto, Scope]] = [(graph, ChainMap())]
    while stack:
        graph, scope = stack.pop()
        if len(scope.maps) > MAX_DEPTH:
            raise BncheckError("nests graphs beyond reason (limit MAX_DEPTH)", "simplify it")
        yield graph, scope
        for node in graph.node:
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else []
                stack.extend((g, scope.new_child()) for g in [*inner, *attribute.graphs])


def _norm_module(node: onnx.NodeProto, scope: Scope, opset: int) -> NormModule:
    attributes = {_text(a.name): a for a in node.attribute}
    inputs = zip(_INPUTS.get(_text(node.op_type), ()), map(_text, node.input), strict=False)
    roles = {role: scope[name] for role, name in inputs if role and name in scope}
    is_batch = node.op_type == "BatchNormalization"
    momentum = attributes["momentum"].f if "momentum" in attributes else 0.9
    return NormModule(
        _text(node.op_type),
        roles,
        eps=round_to_decimal(attributes["epsilon"].f) if "epsilon" in attributes else 1e-5,
        # ONNX: running = running * momentum + batch * (1 - momentum)
        momentum=round_to_decimal(1.0 - round_to_decimal(momentum)) if is_batch else None,
        momentum_known=is_batch,
        training=_trains(node, attributes, opset) if is_batch else None,
        tracks_statistics=True if is_batch else None,
    )


def _trains(node: onnx.NodeProto, attributes: dict[str, Any], opset: int) -> bool:
    if opset >= 14:
        return "training_mode" in attributes and attributes["training_mode"].i != 0
    # Before opset 14 a node with more than one output was in training mode.
    return len([name for name in node.output if name]) > 1


def round_to_decimal(value: float) -> float:
    """A float32 attribute as the decimal its author typed: 9.999999747378752e-06 -> 1e-05."""
    return float(f"{value:.6g}")


def _layer_name(node: onnx.NodeProto, layer: NormModule) -> str:
    for role in ("running_mean", "weight"):
        name = layer.tensors.get(role, "")
        if name.endswith((f".{role}", f"/{role}", f"_{role}")):
            return name[: -len(role) - 1]
    names = [node.name, *node.output, node.op_type]
    return next(_text(name) for name in names if name)


class _Names:
    """Two nodes may share their statistics, and two branches a name: each is there."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def name(self, wanted: str, taken: Container[str]) -> str:
        """`wanted`, or `wanted (2)`, `wanted (3)`... where that is taken."""
        name = wanted
        while name in taken:
            number = self._next.get(wanted, 2)
            self._next[wanted] = number + 1
            name = f"{wanted} ({number})"
        return name


def load_tensor(tensor: onnx.TensorProto, folder: ModelFolder) -> Array:
    """A tensor's numbers, also from a data file in the model's own folder."""
    import onnx
    from onnx import numpy_helper

    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return _load_external(tensor, folder)
        checked_shape(tensor.dims)
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise BncheckError(
            f"has an initialiser {_text(tensor.name)[:60]!r} whose bytes do not fit its shape "
            f"({type(error).__name__})",
            "export it again",
        ) from None
    return array


def _load_external(tensor: onnx.TensorProto, folder: ModelFolder) -> Array:
    import numpy as np
    from onnx import helper

    entries = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = checked_shape(tensor.dims)
    length = dtype.itemsize * math.prod(shape)
    said = int(entries.get("length") or length)
    if said != length:
        raise BncheckError(
            f"says that {_text(tensor.name)[:60]!r} has {said:,} bytes; its shape needs {length:,}",
            "export it again",
        )
    data = folder.open(entries.get("location", ""))
    raw = data.numbers(int(entries.get("offset") or 0), length)
    return np.frombuffer(raw, dtype).reshape(shape)


def _external_file(path: Path, location: str) -> Path:
    """The data file, if it lies in the model's folder by its name and by where links lead."""
    beside = path.parent
    candidate = Path(os.path.normpath(beside / location))
    inside = location and "\0" not in location and not Path(location).is_absolute()
    if not inside or ".." in Path(location).parts:
        raise BncheckError(
            f"keeps its data in {location[:60]!r}, outside its own folder",
            "do not trust it; export it again",
        )
    if not os.path.exists(candidate):  # unlike Path.exists, False for any name
        raise BncheckError(
            f"keeps its data in {location[:60]!r}, which is not there", "copy that file beside it"
        )
    homes = (beside.resolve(), path.resolve().parent)
    real = candidate.resolve()
    if not any(home == real.parent or home in real.parents for home in homes):
        raise BncheckError(
            f"keeps its data in {location[:60]!r}, a link out of its folder",
            "copy the data beside the model",
        )
    if real.stat().st_nlink > 1:  # an unpacked archive can link to any file (CVE-2026-34446)
        raise BncheckError(f"keeps its data in the hard link {location[:60]!r}", "copy the data")
    return real
