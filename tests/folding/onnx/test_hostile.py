"""A stranger's ONNX model reads no file that is not its own, wherever it says that data lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from bncheck.cli import run
from bncheck.runtime.file import open_onnx
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import fold_onnx
from tests.zoo import onnx_models as zoo


def _stolen() -> TensorProto:
    """Numbers that lie in the file `secret` of the working directory."""
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    return tensor


def _constant(**attribute: object) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Constant", output=["c"])
    node.attribute.append(onnx.AttributeProto(name="value", **attribute))  # type: ignore[arg-type]
    return node


def _sparse() -> onnx.SparseTensorProto:
    indices = helper.make_tensor("i", TensorProto.INT64, [4], range(4))
    return onnx.SparseTensorProto(values=_stolen(), indices=indices, dims=[4])


def _function(model: onnx.ModelProto) -> None:
    node = _constant(t=_stolen(), type=onnx.AttributeProto.TENSOR)
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "f", [], ["c"], [node], opset))


PLACES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "initializer": lambda m: m.graph.initializer.append(_stolen()),
    "attribute": lambda m: m.graph.node.append(
        _constant(t=_stolen(), type=onnx.AttributeProto.TENSOR)
    ),
    "attributes": lambda m: m.graph.node.append(
        _constant(tensors=[_stolen()], type=onnx.AttributeProto.TENSORS)
    ),
    "sparse-attribute": lambda m: m.graph.node.append(
        _constant(sparse_tensor=_sparse(), type=onnx.AttributeProto.SPARSE_TENSOR)
    ),
    "sparse-initializer": lambda m: m.graph.sparse_initializer.append(_sparse()),
    "function": _function,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["fold", "compare"])
def test_data_elsewhere_are_refused(
    place: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model = zoo.onnx_model([zoo.onnx_norm("bn", "x", "y")], zoo.onnx_values("bn"))
    PLACES[place](model)
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "evil.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "secret").write_bytes(b"0123456789abcdef")
    monkeypatch.chdir(tmp_path)
    out = ["-o", "out.onnx"] if command == "fold" else [str(path)]
    assert run([command, str(path), *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bncheck: error: ")
    assert error.count("\n") == 1
    assert "export it again" in error or "does not exist" in error
    assert not (tmp_path / "out.onnx").exists()


def test_results_without_a_name_are_none(tmp_path: Path) -> None:
    """Of a BatchNorm of opset 9 onnxruntime (1.32) wants to write all five of them, and crashes."""
    model = graphs.conv_bn(opset=9)()
    model.graph.node[1].output.extend([""] * 4)
    onnx.save(model, tmp_path / "net.onnx")
    given, _ = open_onnx(tmp_path / "net.onnx")
    assert list(given.graph.node[1].output) == ["y"]
    report, folded = fold_onnx(tmp_path / "net.onnx")
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    assert report.parity is not None
    assert report.parity.holds
