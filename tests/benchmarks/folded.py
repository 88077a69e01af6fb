"""What comes out of folding a ResNet-50: its speed, and what other tools leave, side by side."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch.fx.experimental.optimization import fuse

import bncheck
from tests.benchmarks.calls import in_turns
from tests.benchmarks.networks import resnet50
from tests.benchmarks.table import show
from tests.folding.onnx.graphs.building import fold_onnx

SIZE = 96


def eager(model: torch.nn.Module, x: torch.Tensor) -> None:
    """CPU time of one forward pass."""
    ways: dict[str, torch.nn.Module] = {
        "unfolded": model,
        "folded by torch.fx": fuse(model),
        "folded by bncheck": bncheck.fold(model, (x,)).module(),
    }
    medians = in_turns({name: lambda way=way: way(x) for name, way in ways.items()})  # type: ignore[misc]
    _ratios("a forward pass in eager mode", medians)


def _ratios(title: str, medians: dict[str, float]) -> None:
    base = next(iter(medians.values()))
    rows = [(name, f"{cpu:.4f}", f"{cpu / base:.2f}") for name, cpu in medians.items()]
    show(title, ("", "CPU s", "ratio"), rows)


def exported(model: torch.nn.Module, x: torch.Tensor, path: Path) -> bytes:
    """An ONNX model with its BatchNormalization nodes, which torch would fold by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x,), str(path), dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )  # fmt: skip
    return path.read_bytes()


def _session(model: bytes, level: Any) -> Callable[[Any], Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def runtime(before: bytes, after: bytes, x: Any) -> None:
    """CPU time of one run in onnxruntime, at the two ends of its own optimisation."""
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
        runs = {"unfolded": _session(before, level), "folded by bncheck": _session(after, level)}
        medians = in_turns({name: lambda run=run: run(x) for name, run in runs.items()})  # type: ignore[misc]
        _ratios(f"a run in onnxruntime, {level.name}", medians)


def peers(source: bytes, path: Path) -> None:
    """BatchNormalization nodes that each tool leaves, and the time of the whole command."""

    def ours() -> onnx.ModelProto:
        return fold_onnx(path)[1]

    ways: dict[str, Callable[[], Any]] = {"bncheck (compared with float64)": ours}
    calls: dict[str, Callable[[Any, onnx.ModelProto], Any]] = {
        "onnxoptimizer": lambda m, model: m.optimize(model, ["fuse_bn_into_conv"]),
        "onnxslim": lambda m, model: m.slim(model),
        "onnxsim": lambda m, model: m.simplify(model)[0],
    }
    for name, call in calls.items():
        try:
            module = importlib.import_module(name)
        except ImportError:
            print(f"{name}: left out, it is not installed")
            continue
        ways[name] = lambda c=call, m=module: c(m, onnx.load_from_string(source))  # type: ignore[misc]
    medians = in_turns(ways)
    base = next(iter(medians.values()))
    rows = [
        (name, f"{cpu:.2f}", f"{cpu / base:.2f}", str(_left(ways[name]())))
        for name, cpu in medians.items()
    ]
    show("an ONNX ResNet-50", ("", "CPU s", "ratio", "BatchNorms left"), rows)


def _left(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)


def main() -> None:
    """Print all of it."""
    torch.set_num_threads(1)
    model, x = resnet50(), torch.randn(1, 3, SIZE, SIZE)
    eager(model, x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        source = exported(model, x, path)
        runtime(source, fold_onnx(path)[1].SerializeToString(), np.asarray(x))
        peers(source, path)


if __name__ == "__main__":
    main()
