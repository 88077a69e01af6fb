"""A region that cannot be computed in float64 costs its own norms, and not the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bncheck.folding.onnx.fold import fold_onnx


def _file(path: Path, *, others: bool) -> Path:
    """A BatchNorm behind a Resize that the evaluator does not have; one or two elsewhere."""
    generator = np.random.default_rng(0)
    stored: dict[str, Any] = {"s": np.array([1, 1, 2, 2], np.float32), "r": np.zeros(0, np.float32)}
    for place in range(3):
        stored[f"w{place}"] = generator.standard_normal((3, 3, 1, 1)).astype(np.float32)
        for name in "gbmv":
            stored[f"{name}{place}"] = generator.uniform(0.5, 1.5, 3).astype(np.float32)
    resize = helper.make_node(
        "Resize", ["{}", "r", "s"], ["{}"], mode="linear",
        coordinate_transformation_mode="tf_half_pixel_for_nn",
    )  # fmt: skip
    nodes, value = [], "x"
    for place in range(3) if others else (1,):
        nodes.append(helper.make_node("Conv", [value, f"w{place}"], [f"c{place}"]))
        value = f"c{place}"
        if place == 1:
            resize.input[0], resize.output[0], value = value, "u", "u"
            nodes.append(resize)
        inputs = [value, *(f"{name}{place}" for name in "gbmv")]
        nodes.append(
            helper.make_node("BatchNormalization", inputs, [f"n{place}"], name=f"bn{place}")
        )
        nodes.append(helper.make_node("Relu", [f"n{place}"], [f"y{place}"]))
        value = f"y{place}"
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 3, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("others", [True, False])
def test_where_an_operator_is_missing_only_what_goes_through_it_stays(
    others: bool, tmp_path: Path
) -> None:
    report, model, _ = fold_onnx(_file(tmp_path / "net.onnx", others=others))
    statuses = {d.name: d.status.value for d in report.batchnorms}
    rest = {"bn0": "folded", "bn2": "folded"} if others else {}
    assert statuses == {"bn1": "kept", **rest}
    (kept,) = report.kept
    assert "cannot be computed in float64 (Resize" in kept.reason
    assert (report.parity is not None) == others
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 1
