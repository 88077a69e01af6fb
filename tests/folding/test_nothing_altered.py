"""A program in which no normalisation goes is not run at all, and stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bncheck.cli import run
from bncheck.folding.onnx import parity as onnx_parity
from bncheck.folding.program import parity as program_parity
from bncheck.folding.program.fold import fold
from tests.folding.onnx.graphs.building import fold_onnx


def _wide(path: Path) -> Path:
    """0.2 MB of weights, an operator that nothing here can run, and no BatchNorm."""
    weight = np.ones((64, 1, 7, 7, 16), dtype=np.float32).reshape(64, 1, 28, 28)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("NobodysOwn", ["a"], ["y"], domain="of.nobody"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("of.nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_an_onnx_file_without_batchnorms_is_copied_and_not_run(tmp_path: Path) -> None:
    source, out = _wide(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    assert run(["fold", str(source), "-o", str(out), "--quiet"]) == 0
    assert onnx.load(out) == onnx.load(source)


@pytest.mark.parametrize("kept", [True, False])
def test_only_what_is_altered_is_evaluated(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []

    def counted(self: object, *args: object) -> object:
        runs.append(args)
        return original(self, *args)  # type: ignore[arg-type]

    original = onnx_parity.ModelSides.original
    monkeypatch.setattr(onnx_parity.ModelSides, "original", counted)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh() if kept else nn.Identity(), nn.BatchNorm2d(2))
    onnx_file = tmp_path / "net.onnx"
    torch.onnx.export(net.eval(), (torch.randn(2, 1, 5, 5),), onnx_file, optimize=False)
    report, _ = fold_onnx(onnx_file)
    assert bool(runs) == bool(report.folded) == (not kept)


def test_a_program_in_which_nothing_goes_is_not_run_and_has_tensors_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program_parity.ProgramSides, "original", None)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.BatchNorm2d(2)).eval()
    x = torch.randn(2, 1, 5, 5)
    expected = net(x)
    result = fold(net, (x,))
    assert result.parity is None
    nn.init.zeros_(next(net.parameters()))
    torch.testing.assert_close(result.module()(x), expected)
