"""What a report says to do about a BatchNorm lets it be folded once it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from bncheck.folding.result import FoldReport
from tests.folding.onnx.graphs.building import bn, fold_onnx, model, norm, numbers

Nodes = list[onnx.NodeProto]
WEIGHTS = {
    "w": numbers(4, 3, 3, 3), "v": numbers(5, 4, 3, 3), "u": numbers(2, 4, 3, 3),
    "t": numbers(4, 3, 2, 2), "s": numbers(4, 3, 1, 1), "one": numbers(1), **norm(4),
    "pads": numbers(8) * 0, "k": numbers(1) * 0 + 2,
}  # fmt: skip
WEIGHTS["pads"] = (WEIGHTS["pads"] + [0, 0, 1, 1, 0, 0, 1, 1]).astype("int64")
WEIGHTS["k"] = WEIGHTS["k"].astype("int64")
PLAIN = "leave it, or put it directly behind a convolution or linear layer and train again"


def node(kind: str, source: str, result: str, **settings: Any) -> onnx.NodeProto:
    return helper.make_node(kind, source.split(), result.split(), result, **settings)


def folded(tmp_path: Path, nodes: Nodes, outputs: str = "y") -> FoldReport:
    used = {name for each in nodes for name in each.input}
    weights = {name: array for name, array in WEIGHTS.items() if name in used}
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, weights, (2, 3, 9, 9), outputs=outputs.split()), path)
    return fold_onnx(path)[0]


CONV, TANH = node("Conv", "x w", "c"), node("Tanh", "b", "y")
PADDED, PAIR = node("Conv", "b v", "y", pads=[1] * 4), node("Conv", "b u", "z", pads=[1] * 4)
REFLECTED = node("Pad", "b pads", "r", mode="reflect")

#: Name -> nodes, what to do, nodes where it was done.
FOLLOWED: dict[str, tuple[Nodes, str, Nodes]] = {
    "padding of a value": (
        [CONV, node("Pad", "c pads one", "p"), bn("p", "b"), TANH],
        "let p (Pad) pad with reflect, replicate or circular, and train again",
        [CONV, node("Pad", "c pads", "p", mode="reflect"), bn("p", "b"), TANH],
    ),
    "padding of a convolution behind it": (
        [node("Tanh", "x", "h"), node("Conv", "h s", "d"), node("Tanh", "d", "c"),
         bn("c", "b"), PADDED],
        "give y (Conv) padding_mode='reflect', and train again",
        [node("Tanh", "x", "h"), node("Conv", "h s", "d"), node("Tanh", "d", "c"),
         bn("c", "b"), REFLECTED, node("Conv", "r v", "y")],
    ),
    "of two convolutions": (
        [node("Conv", "x s", "d"), node("Tanh", "d", "c"), bn("c", "b"), PADDED, PAIR],
        "give y (Conv) padding_mode='reflect', and train again; "
        "give z (Conv) padding_mode='reflect', and train again",
        [node("Conv", "x s", "d"), node("Tanh", "d", "c"), bn("c", "b"), REFLECTED,
         node("Conv", "r v", "y"), node("Conv", "r u", "z")],
    ),
    "zeros in an average": (
        [CONV, node("AveragePool", "c", "p", kernel_shape=[3, 3], pads=[1] * 4,
                    count_include_pad=1), bn("p", "b"), TANH],
        "give p (AveragePool) count_include_pad=False, and train again",
        [CONV, node("AveragePool", "c", "p", kernel_shape=[3, 3], pads=[1] * 4), bn("p", "b"),
         TANH],
    ),
    "another reader": (
        [CONV, bn("c", "b"), node("Relu", "b", "r"), node("Add", "r c", "y")],
        "let y (Add) read its result instead, and train again",
        [CONV, bn("c", "b"), node("Relu", "b", "r"), node("Add", "r b", "y")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_said_helps(name: str, tmp_path: Path) -> None:
    before, hint, after = FOLLOWED[name]
    outputs = "y z" if PAIR in before else "y"
    (finding,) = folded(tmp_path, before, outputs).findings
    assert finding.fix == hint
    assert folded(tmp_path, after, outputs).folded == 1


def test_an_output_that_nobody_needs_can_go(tmp_path: Path) -> None:
    nodes = [CONV, bn("c", "b"), TANH]
    (finding,) = folded(tmp_path, nodes, "y c").findings
    assert finding.fix == "take it out of the outputs if nobody needs it"
    assert folded(tmp_path, nodes).folded == 1


#: More is in the way than what a hint would change.
IN_VAIN: dict[str, Nodes] = {
    "another reader of it": [node("Conv", "x s", "d"), node("Tanh", "d", "c"), bn("c", "b"), PADDED,
                             node("Tanh", "b", "z")],
    "order behind a rectifier": [CONV, node("Relu", "c", "r"),
                                 node("MaxPool", "r", "p", kernel_shape=[2, 2]), bn("p", "b"),
                                 node("Tanh", "b", "y"), node("Tanh", "b", "z")],
    "a reader further up": [CONV, node("Tanh", "c", "z"),
                            node("AveragePool", "c", "p", kernel_shape=[2, 2]), bn("p", "b"), TANH],
}  # fmt: skip


@pytest.mark.parametrize("name", IN_VAIN)
def test_a_hint_that_would_not_do_is_not_given(name: str, tmp_path: Path) -> None:
    (finding,) = folded(tmp_path, IN_VAIN[name], "y z").findings
    assert finding.fix == PLAIN


@pytest.mark.parametrize("reader", ["MatMul", "Add"])
def test_a_norm_of_stored_numbers_goes_into_them(reader: str, tmp_path: Path) -> None:
    """Of shape [3], so that its scale would fit in their place."""
    weights = {"p": numbers(3, 3), **norm(3)}
    nodes = [bn("p", "q"), node("Reshape", "q four", "w"), node(reader, "x w", "y")]
    weights["four"] = numbers(4).astype("int64") * 0 + [1, 1, 3, 3]
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, weights, (2, 3, 3, 3), kind=TensorProto.FLOAT), path)
    report, result = fold_onnx(path)
    assert report.rows()[0]["into"] == "p"
    assert report.parity is not None
    assert report.parity.holds
    assert [n.op_type for n in result.graph.node] == ["Reshape", reader]


def test_a_norm_along_the_last_axis_is_found_as_tensorflow_writes_it(tmp_path: Path) -> None:
    weights = {"w": numbers(3, 5), "g": numbers(5), "t": numbers(1, 1, 5), "v": numbers(5, 2)}
    behind = [node("Tanh", "b", "h"), node("MatMul", "h v", "y")]
    for source, found in (("c", 1), ("x", 0)):  # of an input, it is the preparation of the data
        nodes = [node("MatMul", "x w", "c"), node("Mul", f"{source} g", "a"),
                 node("Add", "a t", "b"), *behind]  # fmt: skip
        path, shape = tmp_path / f"{source}.onnx", (2, 7, 3 if found else 5)
        onnx.save(model(nodes[1 - found :], weights, shape), path)
        report, result = fold_onnx(path)
        assert (report.folded, len(report.batchnorms)) == (found, found)
        assert ("Mul" in [n.op_type for n in result.graph.node]) != bool(found)


def test_a_norm_with_computed_statistics_is_to_be_left(tmp_path: Path) -> None:
    """As a converter writes a LayerNorm: all of its parameters are computed of the input."""
    weights = {"w": numbers(4, 3, 1, 1)}
    nodes = [CONV, *(node("ReduceMean", "c", each, axes=[0, 2, 3], keepdims=0) for each in "gtm"),
             node("Abs", "m", "s"), node("BatchNormalization", "c g t m s", "y")]  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, weights, (2, 3, 9, 9)), path)
    (finding,) = fold_onnx(path)[0].findings
    assert "its running mean is computed from the input" in finding.message
    assert finding.fix == "leave it: it has no fixed scale and shift"
