"""A product and a sum that were learned as they are go where they can, and are no BatchNorm."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import bncheck
from bncheck.folding.fold import FoldOptions
from tests.folding.onnx.graphs.building import fold_onnx, numbers
from tests.folding.patterns.building import randomised


class DyT(nn.Module):
    """https://arxiv.org/abs/2503.10622, of 4 features."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.weight, self.bias = nn.Parameter(torch.rand(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * self.weight + self.bias


class Frozen(nn.Module):
    """A BatchNorm whose numbers are called otherwise."""

    g: Tensor
    t: Tensor
    m: Tensor
    v: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in "gtmv":
            self.register_buffer(name, torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.g * (self.v + 1e-5).rsqrt()
        return x * scale + (self.t - self.m * scale)


class Block(nn.Module):
    """One DyT goes into the layer behind it, the other one stays before a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.frozen, self.norm, self.other = Frozen(), DyT(), DyT()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.norm(self.frozen(self.first(x))))
        z: Tensor = self.third(torch.relu(self.other(y)))
        return z


def test_a_learned_map_is_folded_by_its_own_name_and_not_missed() -> None:
    torch.manual_seed(0)
    result = bncheck.fold(randomised(Block()), torch.randn(2, 4))
    kinds = {decision.name: decision.kind.value for decision in result.batchnorms}
    assert kinds == {"frozen": "BatchNorm", "norm": "affine map"}
    assert not result.report.findings  # `other` is not a norm that stays
    assert result.report.folded == 2
    assert result.parity is not None
    assert result.parity.holds


class Quantising(nn.Module):
    """What torch trains for quantisation: a weight times a BatchNorm's scale, and its result
    divided by that before the bias is added and the BatchNorm follows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.bias = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        bn, variances = self.bn, self.bn.running_var
        assert variances is not None
        scale = bn.weight / torch.sqrt(variances + bn.eps)
        y = nn.functional.conv2d(x, self.conv.weight * scale.reshape(-1, 1, 1, 1))
        z: Tensor = bn(y / scale.reshape(1, -1, 1, 1) + self.bias)
        return z


class Standardised(nn.Module):
    """(x - m) / sqrt(v) * g + t, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 4), Frozen()

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        z: Tensor = torch.tanh((self.fc(x) - n.m) / (n.v + 1e-5).sqrt() * n.g + n.t)
        return z


def test_what_undoes_the_scale_of_a_weight_is_not_a_second_norm() -> None:
    torch.manual_seed(0)
    model = Quantising()
    nn.init.uniform_(model.bn.weight, 0.5, 2)  # it is divided by
    result = bncheck.fold(model.eval(), torch.randn(2, 3, 8, 8))
    kinds = [decision.kind.value for decision in result.batchnorms]
    assert kinds == ["affine map", "BatchNorm"]
    assert result.report.folded == 2


def test_means_and_deviations_before_a_scale_and_a_shift_are_a_norm() -> None:
    torch.manual_seed(0)
    result = bncheck.fold(randomised(Standardised()), torch.randn(2, 4))
    assert [decision.kind.value for decision in result.batchnorms] == ["BatchNorm"]
    assert result.report.folded == 1


def test_an_exported_file_says_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, model = tmp_path / "net.onnx", randomised(Block())
    torch.onnx.export(model, (torch.randn(2, 4),), path, dynamo=False, opset_version=17)
    report, _ = fold_onnx(path, FoldOptions(fail_unfolded=True))
    assert [decision.kind.value for decision in report.batchnorms] == ["BatchNorm", "affine map"]
    assert not report.findings


@pytest.mark.parametrize(
    ("before", "names", "kind"),
    [
        ("MatMul", ("norm.weight", "norm.bias"), "BatchNorm"),  # as converters fold one halfway
        ("Tanh", ("gamma", "beta"), "affine map"),
        ("Tanh", ("const_fold_opt__7", "const_fold_opt__8"), "BatchNorm"),
        ("Tanh", ("model/bn/scale", "model/bn/shift"), "BatchNorm"),
        ("Relu", ("norm.weight", "norm.bias"), "affine map"),
        ("Relu", ("norm.weight", "other.bias"), "BatchNorm"),
        ("Relu", ("onnx::Mul_7", "onnx::Add_8"), "BatchNorm"),
        ("Relu", ("bn1.weight", "bn1.bias"), "BatchNorm"),
    ],
)
def test_names_and_the_call_before_say_what_is_known_of_a_file(
    before: str, names: tuple[str, str], kind: str, tmp_path: Path
) -> None:
    scale, shift = names
    weights = {"w": numbers(5, 5), scale: numbers(5), shift: numbers(5), "v": numbers(5, 2)}
    first = helper.make_node(before, ["x", "w"] if before == "MatMul" else ["x"], ["a"])
    nodes = [
        first,
        helper.make_node("Mul", ["a", scale], ["b"]),
        helper.make_node("Add", ["b", shift], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]
    stored = [
        onnx.numpy_helper.from_array(array.astype("float32"), n) for n, array in weights.items()
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 7, 5])]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7, 2])]
    graph = helper.make_graph(nodes, "g", given, made, stored)
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    report, result = fold_onnx(path)
    assert [decision.kind.value for decision in report.batchnorms] == [kind]
    assert [n.op_type for n in result.graph.node if n.op_type == "Mul"] == []
