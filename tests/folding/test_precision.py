"""What a proof allows is what rounding does on the way, not what it does elsewhere in a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bncheck.folding.onnx import fold as onnx_fold
from bncheck.folding.onnx import rewrite as onnx_rewrite
from bncheck.folding.program import fold as folding
from bncheck.folding.program.fold import fold
from bncheck.folding.program.rewrite import rewrite
from tests.architectures import randomised
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import fold_onnx

#: How far off the numbers of a wrong fold are: unseen in bfloat16, and in float16.
_WRONG = 1.001


class _Beside(nn.Module):
    """A convolution and its norm; an output of another dtype that does not rest on them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.dtype = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), dtype

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.bn(self.conv(x)).tanh(), x.mean((2, 3)).to(self.dtype)


class _Behind(_Beside):
    """The other output rests on them: where the fold happens, all is float32 all the same."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.bn(self.conv(x)).tanh()
        return y, y.mean((2, 3)).to(self.dtype)


@pytest.mark.parametrize("net", [_Beside, _Behind])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_wrong_fold_of_float32_is_seen_beside_another_dtype(
    net: type[_Beside], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*given: Any) -> Any:
        made = rewrite(*given)
        with torch.no_grad():
            made.program.state_dict["conv.weight"] *= _WRONG
        return made

    x = torch.randn(2, 3, 9, 9)
    result = fold(randomised(net(dtype)), x)
    assert result.parity is not None
    assert result.parity.holds
    if net is _Beside:
        assert result.parity.tolerance == 1e-5
    monkeypatch.setattr(folding, "rewrite", wrong)
    result = fold(randomised(net(dtype)), x)
    assert result.parity is not None
    assert not result.parity.holds


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_the_same_in_an_onnx_model(
    kind: int, behind: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    nodes = [
        graphs.conv(),
        graphs.bn("c", "b"),
        helper.make_node("Tanh", ["b"], ["y"]),
        helper.make_node("Cast", ["y" if behind else "x"], ["narrow"], to=kind),
        helper.make_node("Cast", ["narrow"], ["z"], to=TensorProto.FLOAT),
    ]
    weights = {"conv.weight": graphs.numbers(6, 3, 1, 1), **graphs.norm(6)}
    model = graphs.model(nodes, weights, outputs=("y", "z"))
    onnx.save(model, tmp_path / "net.onnx")

    def wrong(model: onnx.ModelProto, *rest: Any) -> Any:
        renamed = onnx_rewrite.rewrite(model, *rest)
        (tensor,) = (t for t in model.graph.initializer if t.name == "conv.weight")
        changed = numpy_helper.to_array(tensor) * np.float32(_WRONG)
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
        return renamed

    assert fold_onnx(tmp_path / "net.onnx")[0].parity.holds  # type: ignore[union-attr]
    monkeypatch.setattr(onnx_fold, "rewrite", wrong)
    assert not fold_onnx(tmp_path / "net.onnx")[0].parity.holds  # type: ignore[union-attr]


class _Inside(nn.Module):
    """Narrow values in a graph of their own, behind the fold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).tanh()
        branches = (lambda t: t.half().float(), lambda t: 2 * t.half().float())
        z: Tensor = torch.cond(y.sum() > 0, *branches, (y,))
        return z


def test_what_a_graph_inside_a_call_rounds_is_allowed() -> None:
    result = fold(randomised(_Inside()), torch.randn(2, 3, 9, 9))
    assert result.report.folded == 1
    assert result.parity is not None
    assert result.parity.tolerance == 5e-3


@pytest.mark.parametrize("tail", ["a graph inside", "an unknown dtype", "float32 alone"])
def test_the_same_in_an_onnx_model_and_where_a_dtype_is_not_known(
    tail: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    narrow = [
        helper.make_node("Cast", ["t"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["z"], to=TensorProto.FLOAT),
    ]
    inner = helper.make_graph(
        narrow, "inner", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    )
    last = {
        "a graph inside": helper.make_node(
            "If", ["yes"], ["q"], then_branch=inner, else_branch=inner
        ),
        "an unknown dtype": helper.make_node("QuickGelu", ["t"], ["q"], domain="com.microsoft"),
        "float32 alone": helper.make_node("Relu", ["t"], ["q"]),
    }[tail]
    nodes = [
        graphs.conv(),
        graphs.bn("c", "b"),
        helper.make_node("Tanh", ["b"], ["t"]),
        helper.make_node("Relu", ["t"], ["q"]),
        helper.make_node("Relu", ["q"], ["y"]),
        helper.make_node("Cast", ["x"], ["n"], to=TensorProto.FLOAT16),  # beside them
    ]
    weights = {"conv.weight": graphs.numbers(6, 3, 1, 1), **graphs.norm(6), "yes": np.array(True)}
    model = graphs.model(nodes, weights)
    model.graph.node[3].CopyFrom(last)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "net.onnx")
    parity = fold_onnx(tmp_path / "net.onnx")[0].parity
    assert parity is not None
    assert parity.tolerance == (1e-5 if tail == "float32 alone" else 5e-3)
