"""`python -m tests.folding.peers`: what other tools leave of the BatchNorms of these cases.

onnxoptimizer, onnxscript, OnnxSlim, onnxruntime and torch.fx, as far as they are installed. Where a
tool fails, it leaves all. A result that differs from the original by more than 1e-3 is wrong.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from bncheck.folding.planner.plan import Status
from tests.folding.peers import exact_cases, onnx_cases, shared_cases, torch_cases
from tests.folding.peers.running import check, check_onnx, randomised

Model = onnx.ModelProto
_FUSIONS = ["fuse_add_bias_into_conv", "fuse_bn_into_conv", "fuse_pad_into_conv"]


def _by_slim(model: Model) -> Model:
    slimmed: Model = importlib.import_module("onnxslim").slim(model)
    return slimmed


def _by_optimizer(model: Model) -> Model:
    optimised: Model = importlib.import_module("onnxoptimizer").optimize(model, _FUSIONS)
    return optimised


def _by_script(model: Model) -> Model:
    rules: Any = importlib.import_module("onnxscript.rewriter.rules.common._fuse_batchnorm").rules
    serde = importlib.import_module("onnxscript.ir").serde
    read = serde.deserialize_model(model)
    rules.apply_to_model(read)
    written: Model = serde.serialize_model(read)
    return written


def _by_runtime(model: Model) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.onnx"
        _session(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, str(path))
        return onnx.load(path)


_TOOLS: Mapping[str, Callable[[Model], Model]] = {
    "onnxoptimizer": _by_optimizer, "onnxscript": _by_script, "OnnxSlim": _by_slim,
    "onnxruntime": _by_runtime,
}  # fmt: skip


def _session(model: Model, level: Any, path: str = "") -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    if path:
        options.optimized_model_filepath = path
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def _run(model: Model, inputs: Mapping[str, Any]) -> Sequence[Any]:
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    results: Sequence[Any] = _session(model, level).run(None, inputs)
    return results


def _narrowed(model: Model) -> Model:
    """In float32, which is what these tools know."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        if info.type.tensor_type.elem_type == TensorProto.DOUBLE:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT
    return model


def _norms(model: Model) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)


def _inputs(model: Model) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    shapes = {i.name: i.type.tensor_type.shape.dim for i in model.graph.input}
    return {
        name: rng.normal(size=[size.dim_value or 2 for size in sizes]).astype(np.float32)
        for name, sizes in shapes.items()
    }


def _wrong(model: Model, other: Model) -> bool:
    """Whether the results differ, where the original can be run."""
    inputs = _inputs(model)
    try:
        wanted = _run(model, inputs)
    except Exception:
        return False
    pairs = zip(wanted, _run(other, inputs), strict=True)
    return any(np.abs(a - b).max() > 1e-3 * np.abs(a).max() for a, b in pairs)


def of_onnx() -> Counter[str]:
    """How many each leaves, and how often it fails or is wrong."""
    found: Counter[str] = Counter()
    for case in onnx_cases.CASES.values():
        model = _narrowed(onnx_cases.model_of(case))
        if not _norms(model):
            continue
        found["all"] += _norms(model)
        decisions = check_onnx(case).decisions
        kept = [d for d in decisions if d.status is Status.KEPT]
        found["bncheck"] += sum(d.op == "BatchNormalization" for d in kept)
        for tool, fold in _TOOLS.items():
            try:
                other = fold(copy.deepcopy(model))
                is_wrong = tool != "onnxruntime" and _wrong(model, other)
                found[tool] += _norms(other)
                found[f"{tool} wrong"] += is_wrong
            except Exception:
                found[tool] += _norms(model)
                found[f"{tool} failed"] += 1
    return found


def of_torch() -> Counter[str]:
    """The same of torch.fx' fuse, of the modules that are BatchNorms."""
    from torch.fx.experimental.optimization import fuse

    found: Counter[str] = Counter()
    for case in (torch_cases.CASES | exact_cases.CASES | shared_cases.CASES).values():
        torch.manual_seed(0)
        net = randomised(case.build(), case.positive, case.scale_only)
        norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
        if not norms:
            continue
        found["all"] += norms
        kept = [d for d in check(case).decisions if d.status is Status.KEPT]
        found["bncheck"] += sum(d.op == "batch_norm" for d in kept)
        try:
            fused: Any = fuse(copy.deepcopy(net))
            left = {node.target for node in fused.graph.nodes if node.op == "call_module"}
            modules = dict(fused.named_modules())
            found["torch.fx"] += sum(
                isinstance(modules[name], nn.modules.batchnorm._BatchNorm) for name in left
            )
        except Exception:
            found["torch.fx"] += norms
            found["torch.fx failed"] += 1
    return found


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stderr(io.StringIO()):
        tables = {"ONNX": of_onnx(), "torch": of_torch()}
    for name, table in tables.items():
        print(name, *(f"{key} {number}" for key, number in table.items()), sep="\n  ")  # noqa: T201
