"""`bncheck fold` on ONNX models."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from bncheck.cli import run
from tests.folding.command import SAMPLES
from tests.folding.onnx.graphs.building import conv_bn
from tests.planted import healthy

torch.set_num_threads(1)


def test_a_folded_onnx_model_is_clean_and_runs(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    assert run(["fold", str(SAMPLES / "healthy.onnx"), "-o", str(out)]) == 0
    onnx.checker.check_model(str(out), full_check=True)
    model = onnx.load(out)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (name,) = [given.name for given in session.get_inputs()]
    for batch in (1, 7):
        x = torch.randn(batch, 1, 8, 8)
        (given,) = session.run(None, {name: x.numpy()})
        expected = healthy()(x).detach()
        torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-4, atol=1e-4)


def test_an_onnx_model_is_compared_on_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    data = str(SAMPLES / "digits-test.npz")
    command = ["fold", str(SAMPLES / "healthy.onnx"), "--data", data, "-o", str(out), "--json"]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["batches"][:3] == [2, 1, 60]
    assert out.exists()


def test_weights_that_a_caller_may_override_are_folded_with_freeze_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(conv_bn(listed=True)(), source)
    assert run(["fold", str(source), "--dry-run"]) == 0
    assert "--freeze-inputs rules that out" in capsys.readouterr().out
    assert run(["fold", str(source), "--freeze-inputs", "-o", str(out), "--quiet"]) == 0
    model = onnx.load(out)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert [info.name for info in model.graph.input] == ["x"]
