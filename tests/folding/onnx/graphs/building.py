"""What ONNX graphs around a BatchNormalization are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bncheck.folding.onnx import fold
from bncheck.folding.result import FoldReport
from bncheck.runtime.weights import whole

Build = Callable[[], onnx.ModelProto]
#: Name -> model and how many BatchNormalization nodes must stay.
Table = dict[str, tuple[Build, int]]


def fold_onnx(path: Path, *settings: Any, **more: Any) -> tuple[FoldReport, onnx.ModelProto]:
    """The report, and the folded model with all of its numbers."""
    report, model, weights = fold.fold_onnx(path, *settings, **more)
    return report, whole(model, weights)


def numbers(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(sum(shape)).normal(0.2, 0.6, shape).astype(dtype)


def norm(
    channels: int, dtype: Any = np.float32, prefix: str = "bn", stats: Any = None
) -> dict[str, Any]:
    rng = np.random.default_rng(channels)
    gamma = rng.normal(0.3, 1, channels)
    gamma[0] = 0.0
    stats = stats or dtype
    return {
        f"{prefix}.weight": gamma.astype(dtype),
        f"{prefix}.bias": rng.normal(0.4, 1, channels).astype(dtype),
        f"{prefix}.running_mean": rng.normal(0.5, 1, channels).astype(stats),
        f"{prefix}.running_var": rng.uniform(0.3, 2.5, channels).astype(stats),
    }


def bn(source: str, result: str, prefix: str = "bn", **attributes: Any) -> onnx.NodeProto:
    roles = ("weight", "bias", "running_mean", "running_var")
    names = [source, *(f"{prefix}.{role}" for role in roles)]
    return helper.make_node("BatchNormalization", names, [result], **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Any],
    shape: Sequence[Any] = ("N", 3, 9, 9),
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    ir: int = 8,
    listed: Sequence[str] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    also = [
        helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in tensors
        if t.name in listed
    ]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", kind, shape), *inputs, *also],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    known = onnx.shape_inference.infer_shapes(made).graph.output
    made.graph.ClearField("output")
    made.graph.output.extend(known)
    return made


def conv(x: str = "x", y: str = "c", w: str = "conv.weight", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, w], [y], **attributes)


def conv_bn(opset: int = 17, ir: int = 8, listed: bool = False, dtype: Any = np.float32,
            stats: Any = None, kind: int = TensorProto.FLOAT) -> Build:  # fmt: skip
    def build() -> onnx.ModelProto:
        weights = {"conv.weight": numbers(6, 3, 3, 3, dtype=dtype), **norm(6, dtype, stats=stats)}
        names = list(weights) if listed else []
        return model([conv(), bn("c", "y")], weights, opset=opset, ir=ir, listed=names, kind=kind)

    return build
