"""Which values of an ONNX graph have numbers that a fold may change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from bncheck.folding.fold import FoldOptions
from tests.folding.onnx.graphs.building import bn, conv, fold_onnx, model, norm


def test_quantised_weights_stay_and_quantised_statistics_are_read(tmp_path: Path) -> None:
    weights = norm(4)
    weights |= {
        "conv.q": np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3),
        "bn.running_mean.q": np.array([1, 2, 3, 4], np.int8),
        "step": np.float32(0.25),
    }
    del weights["bn.running_mean"]
    nodes = [
        helper.make_node("DequantizeLinear", [f"{name}", "step"], [result])
        for name, result in (
            ("conv.q", "conv.weight"),
            ("bn.running_mean.q", "bn.running_mean"),
        )
    ]
    path = tmp_path / "net.onnx"
    onnx.save(model([*nodes, conv(), bn("c", "y")], weights), path)
    (decision,) = fold_onnx(path, FoldOptions(dry_run=True))[0].batchnorms
    assert decision.name == "bn"
    assert "the weight of conv (Conv) is quantised and stays as it is" in decision.reason
