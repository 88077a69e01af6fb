"""ONNX models. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.zoo.layout import BUILDERS, ROLES, Array, Layout, Settings, layout


def onnx_values(name: str, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"{name}.{role}": rng.random(3, np.float32) + np.float32(0.5) for role in ROLES}


def onnx_norm(name: str, x: str, y: str, **attributes: Any) -> onnx.NodeProto:
    inputs = [x, *(f"{name}.{role}" for role in ROLES)]
    return helper.make_node("BatchNormalization", inputs, [y], **attributes)


def onnx_model(
    nodes: list[onnx.NodeProto],
    values: Mapping[str, Array],
    opset: int = 17,
    more_inputs: Iterable[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    shape: list[str | int | None] = ["n", 3, 4, 4]
    graph = helper.make_graph(
        nodes,
        "zoo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), *more_inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _onnx(
    folder: Path, model: onnx.ModelProto, tensors: Mapping[str, Array], **more: Any
) -> Layout:
    path = folder / "model.onnx"
    onnx.save(model, path)
    onnx.checker.check_model(str(path))
    return Layout(path, "onnx", tensors, **more)


ONNX_DEFAULT = Settings(1e-5, 0.1, False, True)


def _onnx_opset(folder: Path, opset: int) -> Layout:
    values = onnx_values("a", 0) | onnx_values("b", 1)
    nodes = [
        onnx_norm("a", "x", "h", epsilon=1e-3, momentum=0.99),
        onnx_norm("b", "h", "y"),
    ]
    layers = {"a": Settings(1e-3, 0.01, False, True), "b": ONNX_DEFAULT}
    return _onnx(folder, onnx_model(nodes, values, opset), values, layers=layers)


for _opset in (9, 17):
    BUILDERS[f"onnx-opset-{_opset}"] = partial(_onnx_opset, opset=_opset)


@layout
def onnx_training(folder: Path) -> Layout:
    values = onnx_values("a")
    node = onnx_norm("a", "x", "y", training_mode=1)
    node.output.extend(["a.mean_out", "a.var_out"])
    settings = {"a": Settings(1e-5, 0.1, True, True)}
    return _onnx(folder, onnx_model([node], values), values, layers=settings)


@layout
def onnx_initializers_are_inputs(folder: Path) -> Layout:
    values = onnx_values("a")
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in values]
    model = onnx_model([onnx_norm("a", "x", "y")], values, 9, inputs)
    return _onnx(folder, model, values, layers={"a": ONNX_DEFAULT})


@layout
def onnx_external_data(folder: Path) -> Layout:
    values = onnx_values("a")
    model = onnx_model([onnx_norm("a", "x", "y")], values)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    return Layout(path, "onnx", values, {"a": ONNX_DEFAULT})


@layout
def onnx_in_hf_cache(folder: Path) -> Layout:
    """Model and data are links into one folder of blobs: onnx.load refuses, onnxruntime accepts."""
    made = onnx_external_data(folder)
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name in ("model.onnx", "model.data"):
        (folder / name).rename(blobs / f"sha-of-{name}")
        (snapshot / name).symlink_to(f"../../blobs/sha-of-{name}")
    return Layout(snapshot / "model.onnx", "onnx", made.tensors, made.layers)


@layout
def onnx_constant_nodes(folder: Path) -> Layout:
    values = onnx_values("a")
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in values.items()
    ]
    model = onnx_model([*constants, onnx_norm("a", "x", "y")], {})
    return _onnx(folder, model, values, layers={"a": ONNX_DEFAULT})


@layout
def onnx_shared_parameters(folder: Path) -> Layout:
    values = onnx_values("a")
    nodes = [onnx_norm("a", "x", "h"), onnx_norm("a", "h", "y")]
    layers = {"a": ONNX_DEFAULT, "a (2)": ONNX_DEFAULT}
    return _onnx(folder, onnx_model(nodes, values), values, layers=layers)


@layout
def onnx_shared_through_identity(folder: Path) -> Layout:
    values = onnx_values("a")
    copies = [
        helper.make_node("Identity", [f"a.{role}"], [f"b.{role}"]) for role in ("weight", "bias")
    ]
    own = {f"b.{role}": onnx_values("b", 1)[f"b.{role}"] for role in ROLES[2:]}
    nodes = [*copies, onnx_norm("a", "x", "h"), onnx_norm("b", "h", "y")]
    layers = {"a": ONNX_DEFAULT, "b": ONNX_DEFAULT}
    return _onnx(folder, onnx_model(nodes, values | own), values | own, layers=layers)


def branch(name: str, seed: int, output: str) -> onnx.GraphProto:
    return helper.make_graph(
        [onnx_norm(name, "x", output)],
        output,
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in onnx_values(name, seed).items()],
    )


@layout
def onnx_inside_if(folder: Path) -> Layout:
    then, other = branch("a", 0, "then_y"), branch("b", 1, "else_y")
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    condition = {"c": np.array(True)}
    values = onnx_values("a", 0) | onnx_values("b", 1)
    layers = {"a": ONNX_DEFAULT, "b": ONNX_DEFAULT}
    model = onnx_model([node], condition)
    return _onnx(folder, model, condition | values, layers=layers)


@layout
def onnx_unnamed_tensors(folder: Path) -> Layout:
    """Optimisers number the tensors; then the node's name is the layer's."""
    values = {str(n): v for n, v in enumerate(onnx_values("a").values(), 100)}
    node = helper.make_node("BatchNormalization", ["x", *values], ["y"], name="/stem/norm")
    return _onnx(folder, onnx_model([node], values), values, layers={"/stem/norm": ONNX_DEFAULT})


@layout
def onnx_other_norms(folder: Path) -> Layout:
    names = [f"inorm.{role}" for role in ("weight", "bias")]
    values: dict[str, Array] = {name: np.ones(3, np.float32) for name in names}
    node = helper.make_node("InstanceNormalization", ["x", *names], ["y"], epsilon=1e-3)
    layers = {"inorm": Settings(1e-3)}
    return _onnx(folder, onnx_model([node], values), values, layers=layers)
