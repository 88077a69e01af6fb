"""onnxruntime: what it computes tells which mean and variance it took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import Tensor

from tests.reading.loaders.agreement import FEW, check
from tests.zoo import onnx_models as zoo

_EPS = 8.0
_MEAN, _VAR = "bn.running_mean", "bn.running_var"
_NAMES = (_MEAN, _VAR, "v", "w")
_WAYS = ("initializer", "constant", "sparse", "identity", "neg", "input", "floats", "external")
_MADE = st.tuples(st.sampled_from(_WAYS), st.sampled_from(_NAMES), st.sampled_from(_NAMES),
                  st.sampled_from((1.0, 2.0, -1.0)))  # fmt: skip


def load(path: Path) -> dict[str, Tensor]:
    """y = (x - mean) / sqrt(variance + eps), at 0 and at 1; all variances are above -eps."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    at = [session.run(["y"], {"x": np.full((1, 3, 4, 4), x, np.float32)})[0] for x in (0, 1)]
    zero, one = (torch.from_numpy(np.asarray(y)[0, :, 0, 0]) for y in at)
    slope = one - zero
    variance = (slope**-2 - _EPS).round()
    return {"running_var": variance, "running_mean": (-zero / slope).round()}


def _add(model: onnx.ModelProto, way: str, name: str, other: str, value: float, file: Path) -> None:
    graph, numbers = model.graph, np.full(3, value, np.float32)
    stored = numpy_helper.from_array(numbers, name)
    if way == "initializer":
        graph.initializer.append(stored)
    elif way == "input":
        graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]))
    elif way == "sparse":
        places = numpy_helper.from_array(np.arange(3), f"{name}.places")
        graph.sparse_initializer.append(helper.make_sparse_tensor(stored, places, [3]))
    elif way == "external":
        file.write_bytes(np.array([1, 1, 1, value, value, value], np.float32).tobytes())
        stored.ClearField("raw_data")
        stored.data_location = onnx.TensorProto.EXTERNAL
        for key, said in (("location", file.name), ("offset", "12"), ("length", "12")):
            stored.external_data.add(key=key, value=said)
        graph.initializer.append(stored)
    else:
        node = {
            "constant": helper.make_node("Constant", [], [name], value=stored),
            "floats": helper.make_node("Constant", [], [name], value_floats=numbers.tolist()),
            "identity": helper.make_node("Identity", [other], [name]),
            "neg": helper.make_node("Neg", [other], [name]),
        }[way]
        graph.node.insert(len(graph.node) - 1, node)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


@FEW
@given(
    made=st.lists(_MADE, max_size=3),
    roles=st.sampled_from(((_MEAN, _VAR), (_MEAN, "v"), ("w", "v"), (_VAR, _MEAN))),
    identity=st.booleans(),
)
def test_onnx(
    scratch: Path, made: list[tuple[str, str, str, float]], roles: tuple[str, str], identity: bool
) -> None:
    rest = {"one": np.ones(3, np.float32), "zero": np.zeros(3, np.float32)}
    values = {_MEAN: np.ones(3, np.float32), _VAR: np.full(3, 2, np.float32)}
    named = [name for _, name, _, _ in made]
    sound = {name: value for name, value in values.items() if name not in named or identity}
    norm = helper.make_node("BatchNormalization", ["x", "one", "zero", *roles], ["y"], epsilon=_EPS)
    model = zoo.onnx_model([norm], rest | sound)
    for way, name, other, value in made:
        _add(model, way, name, other, value, scratch / "drawn.bin")
    path = scratch / "drawn.onnx"
    path.write_bytes(model.SerializeToString())
    check(path, load, by_role=True)
