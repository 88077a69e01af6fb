"""The table of ONNX' operators: every name exists, and settings are read off the node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bncheck.graph.linear import Linear
from bncheck.graph.onnx.operators import OPERATORS
from bncheck.graph.onnx.read import read_model
from bncheck.graph.onnx.thin import main_graph
from bncheck.graph.specs import Average, Chosen, Gather, Opaque, Pad, Rectifier, Spec

_KNOWN = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}


def test_every_name_is_an_operator_of_onnx() -> None:
    assert set(OPERATORS) <= _KNOWN


def _op(node: onnx.NodeProto, shape: Any = ("n", 4, 6, 6), opset: int = 17, **stored: Any) -> Any:
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    (op,) = read_model(model)[0].graph.ops
    return op


def _int(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("node", "stored", "spec"),
    [
        (helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, -1]), {}, Average((2, 3))),
        (helper.make_node("ReduceSum", ["x", "a"], ["y"]), {"a": _int(2)}, Average((2,), 6.0)),
        (
            helper.make_node("Slice", ["x", "from", "to", "on", "by"], ["y"]),
            {"from": _int(-1), "to": _int(-9), "on": _int(1), "by": _int(-2)},
            Gather(((1, (3, 1)),)),
        ),
        (
            helper.make_node("Pad", ["x", "p", "", "on"], ["y"]),
            {"p": _int(1, -1), "on": _int(-1)},
            Pad((3,), 0.0, ((1, -1),)),
        ),
        (helper.make_node("Tile", ["x", "r"], ["y"]), {"r": _int(1, 1, 1, 1)}, Gather(())),
    ],
)
def test_settings_are_read(node: onnx.NodeProto, stored: dict[str, Any], spec: Spec) -> None:
    opset = 18 if node.op_type == "Pad" else 17
    assert _op(node, opset=opset, **stored).spec == spec


@pytest.mark.parametrize(
    ("node", "stored"),
    [
        (helper.make_node("Tile", ["x", "r"], ["y"]), {"r": _int(2)}),
        (
            helper.make_node("Slice", ["x", "from", "to"], ["y"]),
            {"from": _int(0, 1), "to": _int(1)},
        ),
        (helper.make_node("Pad", ["x", "p"], ["y"]), {"p": _int(1, 2, 3)}),
        (helper.make_node("Slice", ["x", "at", "at"], ["y"]), {"at": np.array([1.5], np.float32)}),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=0), {"w": np.ones((4, 4, 1, 1))}),
        (helper.make_node("Conv", ["x", "w"], ["y"], pads="abc"), {"w": np.ones((4, 4, 1, 1))}),
        (helper.make_node("Transpose", ["x"], ["y"], perm=[0, 1, 2, 2]), {}),
        (helper.make_node("Concat", ["x", "x"], ["y"], axis="channels"), {}),
        (helper.make_node("DepthToSpace", ["x"], ["y"]), {}),
        (helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=0), {}),
        (helper.make_node("Relu", ["x"], ["y"], domain="com.example"), {}),
    ],
)
def test_what_contradicts_itself_or_is_not_standard_is_opaque(
    node: onnx.NodeProto, stored: dict[str, Any]
) -> None:
    assert _op(node, **stored).spec == Opaque(node.op_type)


def test_a_large_repetition_is_not_counted_out() -> None:
    node = helper.make_node("Tile", ["x", "r"], ["y"])
    assert _op(node, r=_int(1, 1 << 50, 1, 1)).spec == Gather(((1, None),))


def test_the_matrix_of_an_einsum_is_its_weight_wherever_it_stands() -> None:
    node = helper.make_node("Einsum", ["w", "x"], ["y"], equation="oc,nhc->nho")
    op = _op(node, ("n", 5, 3), w=np.ones((4, 3), np.float32))
    assert op.spec == Linear.matrix(output_first=True)
    assert op.inputs == ("x", "w")


def _shape_behind(nodes: str, opset: int = 17, **sparse: Any) -> Any:
    graph = onnx.parser.parse_graph(f"g (double[N, 3, 6] x) => (double[] y) {{ {nodes} }}")
    for name, numbers in sparse.items():
        places = np.flatnonzero(numbers)
        values = numpy_helper.from_array(numbers.ravel()[places], name)
        held = helper.make_sparse_tensor(values, numpy_helper.from_array(places, ""), numbers.shape)
        graph.sparse_initializer.append(held)
    graph.ClearField("value_info")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    made = read_model(model)[0].graph
    return made.shape("z"), made.values["z"].dtype


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_shape_behind_a_function_of_onnx(opset: int) -> None:
    found = _shape_behind("z = MeanVarianceNormalization <axes=[0, 2]> (x) y = Relu(z)", opset)
    assert found == (("N", 3, 6), "float64")


def test_shape_behind_a_sparse_weight() -> None:
    weight = np.eye(4, 3).reshape(4, 3, 1)
    assert _shape_behind("z = Conv(x, w) y = Relu(z)", w=weight) == (("N", 4, 6), "float64")


def test_shape_and_dtype_of_a_sum_with_two_ellipses() -> None:
    nodes = 'v = Identity(x) z = Einsum <equation="b...i,b...j->b...ij"> (x, v) y = Relu(z)'
    assert _shape_behind(nodes) == (("N", 3, 6, 6), "float64")


def test_a_graph_without_large_numbers_has_the_calls_that_rest_on_them() -> None:
    """Of the call that picks, and of all others, the means can then be followed."""
    places = np.zeros((1, 4, 40, 40), np.int64)
    nodes = [
        helper.make_node("GatherElements", ["x", "i"], ["g"], axis=1),
        helper.make_node("Gather", ["g", "j"], ["h"], axis=3),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 40, 40))],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(places, "i"), numpy_helper.from_array(np.arange(6000) % 40, "j")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    specs = [op.spec for op in main_graph(model).ops]
    assert specs == [Chosen(((1, None),)), Opaque("Gather"), Rectifier("Relu")]
