"""An ONNX model without its weights is the same model; a file cannot point into itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import bncheck
from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.inspecting import chains
from bncheck.layers.means import Chain, rectified_mean
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading import tensors
from bncheck.reading.onnx_file import ModelFolder, load_tensor, parsed
from bncheck.reading.onnx_weights import without_weights
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.source import Source, SourceFile
from bncheck.reading.tensors import PIECE_BYTES

LARGE = 600_000
ROLES = ("weight", "bias", "running_mean", "running_var")


def _model(weight: TensorProto | None = None) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    stored = {f"bn.{role}": rng.random(8).astype(np.float32) + 0.5 for role in ROLES}
    kernel = rng.standard_normal((8, LARGE // 8, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["c"]),
            helper.make_node("BatchNormalization", ["c", *stored], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", 1, [1, LARGE // 8, 2, 2])],
        [helper.make_tensor_value_info("y", 1, [1, 8, 2, 2])],
        [weight or numpy_helper.from_array(kernel, "kernel"),
         *(numpy_helper.from_array(v, name) for name, v in stored.items())],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _numbers(data: bytes, source: Source, location: str, path: Path) -> dict[str, Any]:
    folder = ModelFolder(path, source.budget, {location: source})
    tensors = onnx.ModelProto.FromString(data).graph.initializer
    return {tensor.name: load_tensor(tensor, folder) for tensor in tensors}


def _twice(data: bytes, kernel: TensorProto) -> bytes:
    """The raw data twice: a parser takes the last."""
    return _with(data, kernel, kernel.SerializeToString() + b"\x4a\x04\0\0\0\0")


def _typed(data: bytes, kernel: TensorProto) -> bytes:
    """Numbers of their own field beside raw ones."""
    return _with(data, kernel, kernel.SerializeToString() + b"\x22\x04\0\0\0\0")


def _unknown(data: bytes, kernel: TensorProto) -> bytes:
    return _with(data, kernel, kernel.SerializeToString() + b"\xf8\x07\x01")


def _two_graphs(data: bytes, kernel: TensorProto) -> bytes:
    """Two graphs are one to a parser, with what both hold."""
    more = onnx.ModelProto(graph=onnx.GraphProto(doc_string="more"))
    return data + bytes(more.SerializeToString())


def _packed(data: bytes, kernel: TensorProto) -> bytes:
    """Sizes as one list of numbers: proto3 writes them so, proto2 reads either."""
    sizes = b"".join(bytes([n & 0x7F | 0x80, n >> 7 & 0x7F | 0x80, n >> 14]) for n in kernel.dims)
    rest = TensorProto()
    rest.CopyFrom(kernel)
    del rest.dims[:]
    return _with(data, kernel, b"\x0a" + bytes([len(sizes)]) + sizes + rest.SerializeToString())


def _with(data: bytes, kernel: TensorProto, new: bytes) -> bytes:
    """The model with these bytes as its kernel."""
    model = onnx.ModelProto.FromString(data)
    del model.graph.initializer[0]
    graph = bytes(model.graph.SerializeToString()) + b"\x2a" + _varint(len(new)) + new
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + b"\x3a" + _varint(len(graph)) + graph


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def _as_written(data: bytes, kernel: TensorProto) -> bytes:
    return data


@pytest.mark.parametrize(
    ("change", "leaves"),
    [(_as_written, True), (_packed, True), (_twice, False), (_typed, False), (_unknown, False),
     (_two_graphs, False)],
)  # fmt: skip
def test_it_is_the_same_model(
    change: Callable[[bytes, TensorProto], bytes], leaves: bool, tmp_path: Path
) -> None:
    model = _model()
    path = tmp_path / "net.onnx"
    path.write_bytes(change(model.SerializeToString(), model.graph.initializer[0]))
    source = Source.open(path, Budget())
    thin = without_weights(source, "here")
    assert (len(thin) < 10_000) is leaves
    whole = parsed(source.numbers(0, source.size))
    if not leaves:
        assert thin == path.read_bytes()
        return
    found = _numbers(thin, source, "here", path)
    for tensor in whole.graph.initializer:
        np.testing.assert_array_equal(found[tensor.name], numpy_helper.to_array(tensor))
    light = onnx.ModelProto.FromString(thin)
    for each in (whole, light):
        del each.graph.initializer[:]
    assert light == whole


@pytest.mark.parametrize(
    ("kind", "bits"),
    [(TensorProto.BFLOAT16, 16), (TensorProto.INT4, 4), (TensorProto.FLOAT8E5M2, 8)],
)
def test_numbers_that_numpy_does_not_have_are_read_by_onnx(
    kind: int, bits: int, tmp_path: Path
) -> None:
    raw = bytes(4 * LARGE * bits // 8)
    path = tmp_path / "net.onnx"
    tensor = TensorProto(name="kernel", data_type=kind, dims=[4 * LARGE], raw_data=raw)
    path.write_bytes(_model(tensor).SerializeToString())
    source = Source.open(path, Budget())
    assert without_weights(source, "here") == path.read_bytes()


def test_a_file_cannot_say_that_its_data_are_in_itself(tmp_path: Path) -> None:
    """The name that stands for the file is drawn anew each time."""
    for location in ("", ".", "here", "0" * 32):
        tensor = TensorProto(name="kernel", data_type=1, dims=[8, LARGE // 8, 1, 1])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        path = tmp_path / "net.onnx"
        path.write_bytes(
            _model(tensor).SerializeToString() + b"\x32\x80\x80\x80\x01" + bytes(1 << 21)
        )
        with pytest.raises(BncheckError):
            open_checkpoint(path).tensors["kernel"]


def test_a_large_model_is_not_read_for_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    model = _model()
    path.write_bytes(model.SerializeToString())
    opened: list[SourceFile] = []
    original = SourceFile.__init__

    def counting(self: SourceFile, path: Path) -> None:
        original(self, path)
        opened.append(self)

    monkeypatch.setattr(SourceFile, "__init__", counting)
    (layer,) = bncheck.inspect(path).layers
    expected = numpy_helper.to_array(model.graph.initializer[3])
    np.testing.assert_array_equal(layer.mean, expected)
    assert 0 < sum(file.bytes_read for file in opened) < path.stat().st_size / 20


@pytest.mark.parametrize("form", ["onnx", "pt"])
def test_a_kernel_is_read_in_pieces(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What predicts means reads all of it and holds a part: the figures are those of the whole."""
    path, (kernel, weights) = tmp_path / f"net.{form}", _two_layers()
    _save(path, {"conv.weight": kernel, **weights})
    held: list[int] = []
    original = SourceFile.read_at, SourceFile.read_into

    def reading(self: SourceFile, offset: int, length: int) -> bytes:
        held.append(length)
        return original[0](self, offset, length)

    def filling(self: SourceFile, offset: int, buffer: memoryview) -> int:
        held.append(len(buffer))
        return original[1](self, offset, buffer)

    monkeypatch.setattr(SourceFile, "read_at", reading)
    monkeypatch.setattr(SourceFile, "read_into", filling)
    (chain,) = _chains(path)
    assert max(held) <= PIECE_BYTES < kernel.nbytes / 4
    assert sum(held) > kernel.nbytes
    for module in (tensors, chains):
        monkeypatch.setattr(module, "PIECE_BYTES", kernel.nbytes)
    (whole,) = _chains(path)
    assert max(held) == kernel.nbytes
    assert chain.correlation == pytest.approx(whole.correlation, rel=1e-13)
    assert chain.deviation == pytest.approx(whole.deviation, rel=1e-13)


def test_a_damaged_kernel_that_is_read_in_pieces_predicts_nothing(tmp_path: Path) -> None:
    """A torch archive has a checksum of the whole kernel; it is right or wrong at the end."""
    path, (kernel, weights) = tmp_path / "net.pt", _two_layers()
    _save(path, {"conv.weight": kernel, **weights})
    data = bytearray(path.read_bytes())
    data[data.index(kernel.tobytes()[-400:]) + 2] ^= 64
    path.write_bytes(data)
    assert not list(_chains(path))
    whole = open_checkpoint(path).tensors.lazy["conv.weight"]
    with pytest.raises(BncheckError, match="checksum"):
        list(whole.pieces())


def _two_layers() -> tuple[Any, dict[str, Any]]:
    """Two BatchNorms and a kernel of 2 MiB between them; means that follow, about."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 0.02, (256, 256, 3, 3)).astype(np.float32)
    weights: dict[str, Any] = {}
    for name in ("a", "b"):
        for role in ROLES:
            weights[f"{name}.{role}"] = rng.uniform(0.5, 1.5, 256).astype(np.float32)
    after = rectified_mean(weights["a.bias"], weights["a.weight"]) @ kernel.sum((2, 3)).T
    weights["b.running_mean"] = (after + rng.normal(0, 0.1, 256)).astype(np.float32)
    return kernel, weights


def _save(path: Path, given: dict[str, Any]) -> None:
    """As they are called: a, conv, b."""
    named = [n for layer in ("a.", "conv.", "b.") for n in given if n.startswith(layer)]
    if path.suffix == ".pt":
        torch.save({name: torch.from_numpy(given[name]) for name in named}, path)
    else:
        nodes = [
            helper.make_node("BatchNormalization", ["x", *(f"a.{r}" for r in ROLES)], ["a"]),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("Conv", ["r", "conv.weight"], ["c"]),
            helper.make_node("BatchNormalization", ["c", *(f"b.{r}" for r in ROLES)], ["y"]),
        ]
        ports = [helper.make_tensor_value_info(n, 1, [1, 256, None, None]) for n in "xy"]
        stored = [numpy_helper.from_array(given[name], name) for name in named]
        graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def _chains(path: Path) -> tuple[Chain, ...]:
    opened = open_checkpoint(path)
    return chains.chains_of(opened, tuple(find_layers(opened, Assumptions()))).found
