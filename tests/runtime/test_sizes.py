"""Sizes of free axes: asked for with --input or --data, or found by trying."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.runtime.inputs import asked_sizes, free_axes, inputs_of
from bncheck.runtime.refused import RefusedError
from bncheck.runtime.sizes import find
from bncheck.subject.inputs import parse_input
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import fold_onnx


def _pyramid(path: Path, dims: Sequence[Any], levels: int, name: str = "x") -> Path:
    """Conv and BatchNorm, halved so many times and scaled up again: sizes are a multiple of that.

    A size that is none does not fit the sum at the end.
    """
    nodes = [graphs.conv(name), graphs.bn("c", "d")]
    last = "d"
    for level in range(levels):
        pool = helper.make_node("MaxPool", [last], [f"p{level}"], kernel_shape=[2, 2],
                                strides=[2, 2])  # fmt: skip
        nodes.append(pool)
        last = f"p{level}"
    nodes += [
        helper.make_node("Resize", [last, "", "scales"], ["u"], mode="nearest"),
        helper.make_node("Add", ["u", "d"], ["y"]),
    ]
    weights = {"conv.weight": graphs.numbers(6, 3, 1, 1), **graphs.norm(6)}
    weights["scales"] = np.array([1, 1, 2**levels, 2**levels], np.float32)
    tensors = [onnx.numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize("levels", [1, 5, 7])
@pytest.mark.parametrize("dims", [("N", 3, "H", "W"), (-1, 3, -1, -1), (2, 3, "H", None)])
def test_sizes_that_the_model_takes_are_found(
    dims: Sequence[Any], levels: int, tmp_path: Path
) -> None:
    report, _ = fold_onnx(_pyramid(tmp_path / "net.onnx", dims, levels))
    assert report.folded == 1
    assert report.parity is not None
    assert report.parity.holds
    assert report.parity.batches == ((2, 1) if dims[0] != 2 else (2,))


@pytest.mark.parametrize(
    ("word", "batches"), [("3,96,96", [2, 1]), ("x=3,96,96", [2, 1]), ("4,3,192,96", [4])]
)
def test_sizes_can_be_asked_for_in_fold_and_compare(
    word: str, batches: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, out = _pyramid(tmp_path / "net.onnx", ("N", 3, "H", "W"), 5), tmp_path / "out.onnx"
    assert run(["fold", str(net), "-o", str(out), "--input", word, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["batches"] == batches
    assert run(["compare", str(net), str(out), "--input", word]) == 0


def test_data_tells_the_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, out = _pyramid(tmp_path / "net.onnx", ("N", 3, "H", "W"), 5), tmp_path / "out.onnx"
    np.savez(tmp_path / "x.npz", x=graphs.numbers(5, 3, 96, 32))
    command = ["fold", str(net), "-o", str(out), "--data", str(tmp_path / "x.npz"), "--json"]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["batches"] == [2, 1, 5]


def _one_norm(path: Path, dims: Sequence[Any] | None, places: tuple[int, ...] = ()) -> str:
    """A BatchNorm of opset 8, with statistics for each of so many places if there are any."""
    weights = {key: np.abs(numbers) + 0.1 for key, numbers in graphs.norm(3).items()}
    for key, numbers in weights.items() if places else ():
        weights[key] = np.broadcast_to(numbers[:, None, None], (3, *places)).copy()
    attributes: dict[str, Any] = {"spatial": 0} if places else {}
    node = graphs.bn("x", "y", **attributes)
    model = graphs.model([node], weights, dims or (), opset=8, ir=4)
    if dims is None:
        model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    return str(path)


_KINDS_OF_NORM: list[tuple[Sequence[Any] | None, tuple[int, ...]]] = [
    (("N", 3, "H", "W"), (5, 7)), (None, ()),
]  # fmt: skip


@pytest.mark.parametrize(("dims", "places"), _KINDS_OF_NORM)
@pytest.mark.parametrize("way", ["--input", "--data"])
def test_sizes_that_nothing_tells_can_be_given(
    dims: Sequence[Any] | None, places: tuple[int, ...], way: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of statistics for each place, and of an input that does not say how many axes it has."""
    pytest.importorskip("onnxruntime")
    path = _one_norm(tmp_path / "net.onnx", dims, places)
    np.save(tmp_path / "x.npy", graphs.numbers(6, 3, 5, 7))
    given = {"--input": "3,5,7", "--data": str(tmp_path / "x.npy")}[way]
    assert run(["compare", path, path]) == 2
    said = capsys.readouterr().err
    assert "--input NAME=SIZES" in said
    assert "--data" in said
    assert run(["compare", path, path, way, given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["levels"][0]["reference"] == "float64"


def test_where_no_size_is_open_none_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Statistics for places that its input does not have."""
    path = _one_norm(tmp_path / "net.onnx", ("N", 3, 5, 7), (4, 4))
    assert run(["compare", path, path]) == 2
    assert "--input" not in capsys.readouterr().err


def test_what_was_tried_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["h"]), graphs.conv("h"),
             graphs.bn("c", "y")]  # fmt: skip
    weights = {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6)}
    weights["shape"] = np.array([-1, 3, 37, 41])
    net = tmp_path / "net.onnx"
    onnx.save(graphs.model(nodes, weights, ("N", 3, "H", "W")), net)
    assert run(["fold", str(net), "-o", str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    assert "N = 1, 2, 4, 8, 16, 32; H and W = 1, 2, 4, 8, 16, 28, 32, 64, 96, 112, 128," in error
    assert "--input NAME=SIZES" in error
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("words", [["4,32,32"], ["3,32"], ["y=3,32,32"], ["3,32,32", "3,32,32"],
                                   ["1,3,32,32,1"]])  # fmt: skip
def test_sizes_that_contradict_the_model_are_an_error(words: list[str], tmp_path: Path) -> None:
    net = _pyramid(tmp_path / "net.onnx", ("N", 3, "H", "W"), 1)
    with pytest.raises(BncheckError, match=r"--input (gives|names)"):
        fold_onnx(net, shapes=[parse_input(word) for word in words])


def _inputs(*shapes: Sequence[Any]) -> Any:
    infos = [
        helper.make_tensor_value_info(f"i{place}", TensorProto.FLOAT, dims)
        for place, dims in enumerate(shapes)
    ]
    return inputs_of(helper.make_model(helper.make_graph([], "g", infos, [])))


def test_a_symbol_is_one_size_and_an_axis_without_a_name_has_its_own() -> None:
    inputs = _inputs(("n", "t"), (2, "n", None), (-1, 0))
    assert free_axes(inputs) == ["n", "t", "i1.2", "i2.0", "i2.1"]
    assert asked_sizes(inputs, [parse_input("i0=4,7"), parse_input("i1=2,4,9")]) == {
        "n": 4, "t": 7, "i1.2": 9,
    }  # fmt: skip
    with pytest.raises(BncheckError, match="gives i1"):
        asked_sizes(inputs, [parse_input("i0=4,7"), parse_input("i1=2,5,9")])


def test_axes_of_other_kinds_are_found_apart() -> None:
    """Sound: a length of 512 only, beside a state that is as large as the batch."""
    inputs = _inputs((None, None), (2, None, 128))

    def takes(named: dict[str, Any]) -> list[Any]:
        sound, state = named["i0"].shape, named["i1"].shape
        if sound[1] != 512 or sound[0] != state[1]:
            raise RuntimeError("no")
        return [named["i0"]]

    found = find(inputs, {}, takes)
    assert found.sizes["i0.1"] == 512
    assert found.sizes["i0.0"] == found.sizes["i1.1"]


def test_where_only_one_sample_is_taken_the_batch_is_not_varied() -> None:
    inputs = _inputs(("n", 4))

    def takes(named: dict[str, Any]) -> list[Any]:
        if len(named["i0"]) != 1:
            raise ValueError("one at a time")
        return [named["i0"]]

    found = find(inputs, {}, takes)
    assert (found.sizes, found.free_batch) == ({"n": 1}, False)
    assert found.of_batch(inputs, 3) == {"n": 1}


def _behind(
    nodes: Sequence[onnx.NodeProto], dims: Sequence[Any], kernel: Sequence[int], **more: Any
) -> onnx.ModelProto:
    """A convolution, a BatchNorm, and what wants certain sizes."""
    weights = {"conv.weight": graphs.numbers(*kernel), **graphs.norm(kernel[0]), **more}
    return graphs.model([graphs.conv(), graphs.bn("c", "d"), *nodes], weights, dims)


def _flat(*reads: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Flatten", ["d"], ["f"]),
        helper.make_node("Gemm", ["f", *reads], ["y"]),
    ]


_PLAIN = [helper.make_node("Relu", ["d"], ["y"])]
_MEAN = [
    helper.make_node("GlobalAveragePool", ["d"], ["g"]),
    helper.make_node("Reshape", ["g", "shape"], ["y"]),
]


@pytest.mark.parametrize(
    ("nodes", "dims", "kernel", "more"),
    [
        (_PLAIN, ("N", "C", "H", "W"), (6, 3, 3, 3), {}),
        (_PLAIN, (-1, -1, -1, -1), (6, 3, 3, 3), {}),
        (_PLAIN, (0, 3, 0, 0), (6, 3, 3, 3), {}),
        (_flat("w"), ("N", 1, "H", "W"), (2, 1, 5, 5), {"w": graphs.numbers(2 * 24 * 24, 3)}),
        (_PLAIN, ("N", 1, "T"), (6, 1, 900), {}),
        (_MEAN, ("N", 3, "H", "W"), (6, 3, 3, 3), {"shape": np.array([4, 6])}),
    ],
    ids=["channels", "no names", "zeros", "28 x 28", "a long window", "a batch of 4"],
)
def test_sizes_that_few_models_take_are_found(
    nodes: Sequence[onnx.NodeProto],
    dims: Sequence[Any],
    kernel: Sequence[int],
    more: dict[str, Any],
    tmp_path: Path,
) -> None:
    onnx.save(_behind(nodes, dims, kernel, **more), tmp_path / "net.onnx")
    report, folded = fold_onnx(tmp_path / "net.onnx")
    assert report.folded == 1
    assert report.parity is not None
    assert report.parity.holds
    sizes = folded.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in sizes] == list(dims)


def _recurrent(path: Path, state: Sequence[Any]) -> Path:
    """A normalised sequence, and the state that a GRU begins with: its batch is the second axis."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), graphs.bn("t", "n"),
        helper.make_node("Transpose", ["n"], ["u"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["u", "w", "r", "", "", "h"], ["y"], hidden_size=5),
    ]  # fmt: skip
    weights = {**graphs.norm(4), "w": graphs.numbers(1, 15, 4), "r": graphs.numbers(1, 15, 5)}
    held = helper.make_tensor_value_info("h", TensorProto.FLOAT, state)
    onnx.save(graphs.model(nodes, weights, ("N", "T", 4), inputs=[held]), path)
    return path


@pytest.mark.parametrize(
    ("state", "words", "batches"),
    [
        ((1, "N", 5), [], [2, 1]),
        ((1, "N", 5), ["h=1x3x5"], [3]),
        (("L", "B", 5), ["h=1x2x5"], [2]),
        (("L", "B", 5), ["x=2x7x4"], [2]),
        ((1, 1, 5), [], [1]),
    ],
)
def test_the_batch_of_a_state_is_what_it_is_asked_to_be(
    state: Sequence[Any], words: Sequence[str], batches: list[int], tmp_path: Path
) -> None:
    path = _recurrent(tmp_path / "net.onnx", state)
    report, _ = fold_onnx(path, shapes=list(map(parse_input, words)))
    assert report.parity is not None
    assert report.parity.holds
    assert list(report.parity.batches[: len(batches)]) == batches


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["h=2x1x5"], "leave it out: all of its sizes are fixed"),
        (["x=4x7x4"], "give other sizes, or leave --input out"),
    ],
)
def test_a_state_of_one_sample_says_why_it_takes_no_more(
    words: Sequence[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _recurrent(tmp_path / "net.onnx", (1, 1, 5))
    given = [word for each in words for word in ("--input", each)]
    assert run(["fold", str(path), "-o", str(tmp_path / "out.onnx"), *given]) == 2
    assert said in capsys.readouterr().err


def test_an_input_that_is_no_tensor_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _behind(_PLAIN, ("N", 3, 9, 9), (6, 3, 3, 3), first=np.array(0))
    model.graph.node.insert(0, helper.make_node("SequenceAt", ["all", "first"], ["x"]))
    del model.graph.input[:]
    all_ = helper.make_tensor_sequence_value_info("all", TensorProto.FLOAT, ("N", 3, 9, 9))
    model.graph.input.append(all_)
    onnx.save(model, tmp_path / "net.onnx")
    assert run(["fold", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "out.onnx")]) == 2
    assert "its input all is not a tensor" in capsys.readouterr().err


def test_empty_outputs_are_no_run() -> None:
    with pytest.raises(RefusedError, match="its outputs are empty"):
        find(_inputs((2, 3)), {}, lambda named: [np.zeros((0, 3))])
