"""The file that an export writes: free of BatchNorm, of traces of this machine, and the same."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import bncheck
from bncheck.runtime.weights import references
from bncheck.shipping import sessions, writing
from bncheck.shipping.axes import Axes, traced
from bncheck.shipping.export import ExportOptions, export_program
from bncheck.shipping.report import ExportReport
from bncheck.shipping.sessions import Runnable, latency, session
from bncheck.shipping.sides import Array
from bncheck.shipping.torch_to_onnx import to_onnx
from bncheck.shipping.writing import pair, write
from tests.architectures import ARCHITECTURES, randomised
from tests.faulty import opening
from tests.planted import SAMPLES
from tests.shipping.nets import IMAGES, Unit, listing

torch.set_num_threads(1)


def _model(name: str) -> nn.Module:
    torch.manual_seed(1)
    return randomised(ARCHITECTURES[name][0]())


@pytest.fixture(scope="module", params=["densenet", "resnet, preactivated"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, ExportReport]:
    name: str = request.param
    path = tmp_path_factory.mktemp("shipped") / "net.onnx"
    shape = ARCHITECTURES[name][1]
    report = bncheck.export(_model(name), (torch.randn(shape),), path)
    return name, path, report


def test_no_batchnorm_is_left_and_it_is_one_file(exported: tuple[str, Path, ExportReport]) -> None:
    _, path, report = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    assert report.batchnorm_nodes == 0
    assert report.before["BatchNormalization"] >= 5
    assert listing(path.parent) == ["net.onnx"]


def test_it_runs_at_any_batch_size_within_1e5_of_float64(
    exported: tuple[str, Path, ExportReport],
) -> None:
    name, path, _ = exported
    precise = _model(name).double()
    generator = torch.Generator().manual_seed(3)
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for batch in (1, 2, 7, 16):
            x = torch.randn(batch, 3, 32, 32, generator=generator)
            (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            expected = precise(x.double()).detach().numpy()
            assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_strings_shows_nothing_of_this_machine(exported: tuple[str, Path, ExportReport]) -> None:
    _, path, _ = exported
    strings = b"\n".join(re.findall(rb"[\x20-\x7e]{4,}", path.read_bytes())).decode()
    machine = [
        str(Path.cwd()),
        str(Path(torch.__file__).parent),
        str(path.parent),
        "site-packages",
        socket.gethostname(),
        ".py",
        "/home/",
        "/root/",
        "pkg.torch",
        "torch.nn",
        "forward",
    ]
    if len(getpass.getuser()) > 3:
        machine.append(getpass.getuser())
    assert [trace for trace in machine if trace in strings] == []


def test_its_metadata_say_what_was_done(exported: tuple[str, Path, ExportReport]) -> None:
    _, path, report = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["bncheck.version"] == bncheck.__version__
    assert facts["bncheck.batchnorm_nodes"] == "0"
    assert report.fold is not None
    counts = json.loads(facts["bncheck.fold"])
    assert counts["folded"] == report.fold.folded
    assert counts["folded"] + counts["rewritten"] == counts["total"]
    assert max(json.loads(facts["bncheck.parity"])["max_relative_error"].values()) < 1e-5


def test_names_and_shapes_are_the_model_s(exported: tuple[str, Path, ExportReport]) -> None:
    _, path, report = exported
    model = onnx.load(path)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 32, 32]
    assert [port.to_dict()["shape"] for port in report.outputs] == [["batch", 10]]
    stored = {tensor.name for tensor in model.graph.initializer}
    own = set(_model(exported[0]).state_dict())
    assert len(stored & own) >= len([name for name in own if name.endswith("conv1.weight")])


def test_latency_is_measured_at_every_level(exported: tuple[str, Path, ExportReport]) -> None:
    _, _, report = exported
    assert [timed.level for timed in report.latency] == ["disable_all", "extended", "all"]
    assert all(timed.folded_ms > 0 and timed.unfolded_ms > 0 for timed in report.latency)


def test_large_weights_are_held_once(tmp_path: Path) -> None:
    """What is converted, run at three levels and written is what the program has."""
    torch.manual_seed(0)
    program = torch.export.export(nn.Linear(200, 100).eval(), (torch.randn(2, 200),))
    made = to_onnx(program, ["x"], ["y"])
    (reference,) = references(made.model)
    array = made.weights.numbers(reference)
    assert np.shares_memory(array, program.state_dict["weight"].detach().numpy())
    assert made.model.ByteSize() < 2000
    done = write(made.model, made.weights, tmp_path / "net.onnx")
    x = np.ones((2, 200), np.float32)
    (y,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x})
    expected = program.module()(torch.ones(2, 200)).detach().numpy()
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert done.size == (tmp_path / "net.onnx").stat().st_size
    assert done.sha256 == hashlib.sha256((tmp_path / "net.onnx").read_bytes()).hexdigest()


def test_sessions_are_as_few_as_there_are_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a level to compare, two to time it beside the unfolded model."""
    opened: list[str] = []

    def counted(model: Runnable, level: str, threads: int = 0) -> object:
        opened.append(level)
        return session(model, level, threads)

    monkeypatch.setattr(sessions, "session", counted)
    for timing, number in ((False, 1), (True, 3)):
        opened.clear()
        bncheck.export(Unit().eval(), IMAGES, tmp_path / "net.onnx", timing=timing)
        assert opened.count("all") == opened.count("extended") == number


def test_a_small_model_is_timed_by_a_count_of_runs_and_not_by_the_clock() -> None:
    model = Runnable(onnx.load(SAMPLES / "healthy.onnx"))
    runs: list[int] = []

    class Counted:
        def __init__(self, level: str) -> None:
            self._session = session(model, level, threads=1)
            self.get_inputs = self._session.get_inputs

        def run(self, names: None, feed: dict[str, Array]) -> object:
            runs.append(len(runs))
            return self._session.run(names, feed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "session", lambda model, level, threads: Counted(level))
        ours, other = latency(model, model, [np.zeros((1, 1, 8, 8), np.float32)], "all", budget=60)
    assert ours > 0
    assert other > 0
    assert len(runs) == 2 + 2 * 500


def test_a_disk_that_loses_bits_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "open", opening, raising=False)
    with pytest.raises(bncheck.BncheckError, match="does not read back as what was proven"):
        bncheck.export(Unit().eval(), IMAGES, tmp_path / "net.onnx", timing=False)
    assert listing(tmp_path) == []


def test_nor_one_with_its_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def damaged(*arguments: Any) -> Iterator[tuple[Path, Path]]:
        with pair(*arguments) as (made, data):
            numbers = data.read_bytes()
            data.write_bytes(bytes([numbers[0] ^ 1]) + numbers[1:])
            yield made, data

    monkeypatch.setattr(writing, "pair", damaged)
    program = traced(Unit().eval(), (IMAGES,), Axes())
    with pytest.raises(bncheck.BncheckError, match="does not read back as what was proven"):
        export_program(program, tmp_path / "net.onnx", ExportOptions(one_file_below=100))
    assert listing(tmp_path) == []
