"""Large weights stay beside the message: what is read, run and written of a model that has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.reading.onnx_file import parsed
from bncheck.runtime import file as onnx_file
from bncheck.runtime import running
from bncheck.runtime.file import same_bits
from tests.faulty import opening
from tests.folding.onnx.graphs.building import bn, conv, model, norm, numbers

runtime = pytest.importorskip("onnxruntime")

#: Bytes of a message without its large weights.
LIGHT = 1 << 16
#: Before IR 4 every stored number is listed as an input, too.
NAMES = ("conv.weight", *norm(1), "plain", "half", "places")


def _large(**settings: Any) -> onnx.ModelProto:
    """More than a megabyte: a kernel that is folded into, one that is not, one in half precision.

    And a table of whole numbers that the runtime wants in its own dtype.
    """
    nodes = [
        conv(), bn("c", "n"), helper.make_node("Conv", ["n", "plain"], ["p"]),
        helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["wide", "places"], ["picked"], axis=0),
        helper.make_node("ReduceMean", ["picked"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["p", "mean"], ["y"]),
    ]  # fmt: skip
    weights = {
        "conv.weight": numbers(256, 64, 3, 3), **norm(256), "plain": numbers(64, 256, 3, 3),
        "half": numbers(96, 96, dtype=np.float16), "places": np.arange(9000) % 96,
    }  # fmt: skip
    return model(nodes, weights, ("N", 64, 9, 9), **settings)


def _same(first: Path, second: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    one, other = (
        runtime.InferenceSession(str(path)).run(None, {"x": x})[0] for path in (first, second)
    )
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4 * np.abs(one).max())


def _one_file(made: onnx.ModelProto, path: Path) -> None:
    onnx.save(made, path)


def _data_beside(made: onnx.ModelProto, path: Path) -> None:
    onnx.save(made, path, save_as_external_data=True, location="net.data", size_threshold=0)


@pytest.mark.parametrize("save", [_one_file, _data_beside])
@pytest.mark.parametrize("settings", [{}, {"ir": 3, "opset": 9, "listed": NAMES}])
def test_the_result_is_one_whole_file(
    save: Callable[[onnx.ModelProto, Path], None], settings: dict[str, Any], tmp_path: Path
) -> None:
    given, out = _large(**settings), tmp_path / "out.onnx"
    save(_large(**settings), tmp_path / "net.onnx")
    assert run(["fold", str(tmp_path / "net.onnx"), "-o", str(out), "--quiet"]) == 0
    onnx.checker.check_model(str(out), full_check=True)
    made = onnx.load(out, load_external_data=False)
    assert not any(node.op_type == "BatchNormalization" for node in made.graph.node)
    assert all(t.data_location != TensorProto.EXTERNAL for t in made.graph.initializer)
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (given, made)
    )
    assert list(after) == ["conv.weight", "plain", "half", "places", "conv.bias"]
    for name in ("plain", "half", "places"):
        np.testing.assert_array_equal(after[name], before[name])
    assert (after["conv.weight"] != before["conv.weight"]).any()
    _same(tmp_path / "net.onnx", out, (2, 64, 9, 9))


def test_it_is_what_protobuf_writes(tmp_path: Path) -> None:
    """Whatever a message holds beside its graph, or its graph beside its weights."""
    given = _large()
    given.doc_string, given.graph.doc_string, given.producer_name = "all", "graph", "tests"
    given.metadata_props.add(key="key", value="value")
    given.graph.initializer[0].doc_string = "kernel"
    onnx.save(given, tmp_path / "net.onnx")
    read, weights = onnx_file.open_onnx(tmp_path / "net.onnx")
    assert read.ByteSize() < LIGHT
    onnx_file.save_onnx(read, weights, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == given


def test_tensors_of_two_shapes_may_share_their_bytes(tmp_path: Path) -> None:
    given = _large()
    (kernel,) = [t for t in given.graph.initializer if t.name == "plain"]
    other = numpy_helper.from_array(numpy_helper.to_array(kernel).reshape(64, -1), "again")
    given.graph.initializer.append(other)
    _data_beside(given, tmp_path / "net.onnx")
    made = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    del stored["again"].external_data[:]
    stored["again"].external_data.extend(stored["plain"].external_data)
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    read, weights = onnx_file.open_onnx(tmp_path / "net.onnx")
    found = {tensor.name: weights.numbers(tensor) for tensor in read.graph.initializer}
    assert found["plain"].shape == (64, 256, 3, 3)
    np.testing.assert_array_equal(found["again"], found["plain"].reshape(64, -1))


def test_what_is_parsed_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions of a light message, one forward of each for each batch.

    The file is parsed, and then the one that was written.
    """
    messages: list[int] = []
    sessions: list[int] = []
    forwards: list[str] = []
    built = running.session_of

    def parsing(data: bytes) -> onnx.ModelProto:
        messages.append(len(data))
        return parsed(data)

    class Counted:
        def __init__(self, session: Any) -> None:
            self._session = session

        def run(self, *arguments: Any) -> Any:
            forwards.append("run")
            return self._session.run(*arguments)

    def building(light: onnx.ModelProto) -> Counted:
        sessions.append(light.ByteSize())
        return Counted(built(light))

    monkeypatch.setattr(onnx_file, "parsed", parsing)
    monkeypatch.setattr(running, "session_of", building)
    onnx.save(_large(), tmp_path / "net.onnx")
    out = tmp_path / "out.onnx"
    assert run(["fold", str(tmp_path / "net.onnx"), "-o", str(out), "--quiet"]) == 0
    assert len(messages) == 2
    assert len(sessions) == 2
    assert len(forwards) == 4
    assert max(*messages, *sessions) < LIGHT


def test_an_operator_that_wants_its_weights_in_the_message_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, refused = running.session_of, []

    def refusing(given: onnx.ModelProto) -> Any:
        if given.ByteSize() < LIGHT:
            refused.append(given)
            raise RuntimeError("B must be a constant")
        return built(given)

    monkeypatch.setattr(running, "session_of", refusing)
    onnx.save(_large(), tmp_path / "net.onnx")
    out = tmp_path / "out.onnx"
    assert run(["fold", str(tmp_path / "net.onnx"), "-o", str(out), "--quiet"]) == 0
    assert refused
    _same(tmp_path / "net.onnx", out, (2, 64, 9, 9))


def test_a_disk_that_loses_bits_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(_large(), tmp_path / "net.onnx")
    read, weights = onnx_file.open_onnx(tmp_path / "net.onnx")
    monkeypatch.setattr(onnx_file, "open", opening, raising=False)
    with pytest.raises(BncheckError, match="does not read back as what was proven"):
        onnx_file.save_onnx(read, weights, tmp_path / "out.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("save", [_one_file, _data_beside])
@pytest.mark.parametrize("name", ["plain", "half", "bn.weight"])
def test_a_number_that_is_another_one_is_noticed(
    name: str, save: Callable[[onnx.ModelProto, Path], None], tmp_path: Path
) -> None:
    """Of large weights and of small, in the message or beside it."""
    path = tmp_path / "net.onnx"
    onnx.save(_large(), tmp_path / "proven.onnx")
    read, weights = onnx_file.open_onnx(tmp_path / "proven.onnx")
    save(_large(), path)
    assert onnx_file.is_written(path, read, weights)
    other = _large()
    (tensor,) = [each for each in other.graph.initializer if each.name == name]
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
    (tmp_path / "net.data").unlink(missing_ok=True)
    save(other, path)
    assert not onnx_file.is_written(path, read, weights)


def test_another_node_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "net.onnx", _large()
    onnx.save(other, path)
    read, weights = onnx_file.open_onnx(path)
    other.graph.node[-1].op_type = "Add"
    onnx.save(other, path)
    assert not onnx_file.is_written(path, read, weights)


def test_the_same_numbers_are_the_same_bits() -> None:
    """NaN does not equal itself, and -0 equals 0."""
    one, other = np.array([np.nan, -0.0]), np.array([np.nan, 0.0])
    assert same_bits(one, one.copy())
    assert not same_bits(one, other)
    assert not same_bits(one, one.reshape(2, 1))
    assert not same_bits(one, one.view(np.int64))
