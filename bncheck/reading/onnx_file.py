"""ONNX models: initialisers as tensors, normalisation nodes as layers.

External data is read here and not by onnx, because the model may say where it lies: only a file in
the model's own folder is read. A symbolic link is followed where model and data end up in one
folder, as in the Hugging Face cache, whose files are all links into `blobs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bncheck.errors import BncheckError
from bncheck.limits import MAX_MODULE_DEPTH, MAX_ONNX_BYTES
from bncheck.reading.checkpoint import NormModule, Subtree
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.source import Source
from bncheck.reading.tensors import LazyTensor, LoadedTensor

if TYPE_CHECKING:
    import onnx

    from bncheck.reading.tensors import Array

#: Input names of the nodes that carry parameters: https://onnx.ai/onnx/operators/
_INPUTS: Final = {
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
    "InstanceNormalization": ("", "weight", "bias"),
    "GroupNormalization": ("", "weight", "bias"),
    "LayerNormalization": ("", "weight", "bias"),
}


def read_onnx(source: Source, path: Path) -> list[Subtree] | None:
    """The model, or None for bytes that are no ONNX model (protobuf accepts nearly anything)."""
    if source.size > MAX_ONNX_BYTES:
        return None
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(source.read(0, source.size))
    except DecodeError:
        return None
    if not model.ir_version or not model.HasField("graph") or not model.graph.node:
        return None
    tensors: dict[str, LazyTensor] = {}
    modules: dict[str, NormModule] = {}
    for graph in graphs_of(model.graph):
        initializers = {item.name: item for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.output:
                for attribute in node.attribute:
                    if attribute.name == "value" and attribute.HasField("t"):
                        initializers[node.output[0]] = attribute.t
        for name, tensor in initializers.items():
            tensors[name] = LoadedTensor(partial(load_tensor, tensor, path), tuple(tensor.dims))
    aliases = _identities(model.graph)
    opset = max([o.version for o in model.opset_import if o.domain in ("", "ai.onnx")], default=1)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if is_norm_class(node.op_type):
                layer = _norm_module(node, tensors, aliases, opset)
                modules[_unused(_layer_name(node, layer), modules)] = layer
    return [Subtree("", tensors, modules)]


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its If, Loop and Scan nodes."""
    stack = [(graph, 0)]
    while stack:
        graph, depth = stack.pop()
        if depth > MAX_MODULE_DEPTH:
            raise BncheckError("nests graphs beyond reason (limit MAX_MODULE_DEPTH)", "simplify it")
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else []
                stack.extend((g, depth + 1) for g in [*inner, *attribute.graphs])


def _identities(graph: onnx.GraphProto) -> dict[str, str]:
    """Exporters share equal initialisers through Identity nodes."""
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity" and node.input and node.output:
            found[node.output[0]] = found.get(node.input[0], node.input[0])
    return found


def _norm_module(
    node: onnx.NodeProto,
    tensors: dict[str, LazyTensor],
    aliases: dict[str, str],
    opset: int,
) -> NormModule:
    attributes = {a.name: a for a in node.attribute}
    roles = {}
    for role, name in zip(_INPUTS.get(node.op_type, ()), node.input, strict=False):
        name = aliases.get(name, name)
        if role and name in tensors:
            roles[role] = name
    is_batch = node.op_type == "BatchNormalization"
    momentum = attributes["momentum"].f if "momentum" in attributes else 0.9
    return NormModule(
        node.op_type,
        roles,
        eps=round_to_decimal(attributes["epsilon"].f) if "epsilon" in attributes else 1e-5,
        # ONNX: running = running * momentum + batch * (1 - momentum)
        momentum=round_to_decimal(1.0 - momentum) if is_batch else None,
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
    return node.name or next((name for name in node.output if name), node.op_type)


def _unused(name: str, taken: dict[str, NormModule]) -> str:
    """Two nodes may share their statistics; each is a layer."""
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name} ({number})", number + 1
    return candidate


def load_tensor(tensor: onnx.TensorProto, path: Path) -> Array:
    """A tensor's numbers, also from a data file in the model's own folder."""
    import onnx
    from onnx import numpy_helper

    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return _load_external(tensor, path)
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise BncheckError(
            f"has an initialiser {tensor.name[:60]!r} whose bytes do not fit its shape "
            f"({type(error).__name__})",
            "export it again",
        ) from None
    return array


def _load_external(tensor: onnx.TensorProto, path: Path) -> Array:
    import numpy as np
    from onnx import helper

    entries = {entry.key: entry.value for entry in tensor.external_data}
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(tensor.dims)
    if min((0, *shape)) < 0:
        raise ValueError
    length = dtype.itemsize * int(np.prod(shape, dtype=object))
    said = int(entries.get("length") or length)
    if said != length:
        raise BncheckError(
            f"says that {tensor.name[:60]!r} has {said:,} bytes; its shape needs {length:,}",
            "export it again",
        )
    data = Source.open(_external_file(path, entries.get("location", "")))
    raw = data.read(int(entries.get("offset") or 0), length)
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
    if not candidate.exists():
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
