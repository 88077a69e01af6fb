"""BatchNorms in functions of a model are seen where these are called, by inspect and fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bncheck
from bncheck.folding.fold import FoldOptions
from tests.folding.onnx.graphs.building import fold_onnx

ROLES = ["weight", "bias", "running_mean", "running_var"]


def _model(opset: int = 17, calls: int = 1, levels: int = 0) -> onnx.ModelProto:
    """`calls` of a function with a BatchNorm in it, or of one that calls one twice, and so on."""
    norm = helper.make_node("BatchNormalization", ["x", *ROLES], ["y"])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    functions = [helper.make_function("own", "f0", ["x", *ROLES], ["y"], [norm], opsets)]
    for level in range(1, levels + 1):
        nodes = [
            helper.make_node(f"f{level - 1}", [x, *ROLES], [y], domain="own")
            for x, y in (("x", "h"), ("h", "y"))
        ]
        made = helper.make_function("own", f"f{level}", ["x", *ROLES], ["y"], nodes, opsets)
        functions.append(made)
    names = ["x", *(f"h{i}" for i in range(1, calls)), "y"]
    parameters = [f"bn.{role}" for role in ROLES]
    nodes = [
        helper.make_node(f"f{levels}", [names[i], *parameters], [names[i + 1]], domain="own")
        for i in range(calls)
    ]
    stored = [numpy_helper.from_array(np.array([0.5, 1.5], np.float32), n) for n in parameters]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2, 4, 4]) for n in "xy"]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], stored)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model: onnx.ModelProto = helper.make_model(
        graph, functions=functions, opset_imports=imports, ir_version=8
    )
    return model


@pytest.mark.parametrize(("calls", "levels"), [(1, 0), (2, 0), (1, 2)])
def test_each_call_is_a_layer_to_both(calls: int, levels: int, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(_model(calls=calls, levels=levels), path)
    layers = bncheck.inspect(path).layers
    assert len(layers) == calls << levels
    assert layers[0].name == "bn"
    assert len(fold_onnx(path, FoldOptions(dry_run=True))[0].batchnorms) == len(layers)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_model(levels=40), "MAX_EXPANDED_BYTES"),
        (_model(levels=70), "MAX_EXPANDED_BYTES"),
        (_model(opset=13), "of another opset"),
    ],
)
def test_what_fills_the_memory_or_stays_hidden_is_refused(
    model: onnx.ModelProto, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(bncheck.BncheckError, match=words):
        bncheck.inspect(path)
    with pytest.raises(bncheck.BncheckError, match=words):
        fold_onnx(path, FoldOptions(dry_run=True))
