"""Calls that pass a map in part only, or read a value otherwise than as numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import bncheck
from tests.folding.onnx.graphs.building import fold_onnx, norm, numbers

GIVEN = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])


class Net(nn.Module):
    """A nonlinearity, a BatchNorm of the last axis of [N, 3, 4], and what reads that."""

    def __init__(self, read: Callable[..., Any], shifts: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bn, self.last, self.pair = nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Bilinear(4, 4, 2)
        self.register_buffer("mask", torch.eye(3, dtype=torch.bool))
        self.read = read
        with torch.no_grad():
            self.bn.weight.normal_()
            if shifts:
                self.bn.bias.normal_()
        self.eval()

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        y = torch.sigmoid(x)
        return self.read(self, self.bn(y.transpose(1, 2)).transpose(1, 2), x, *more)


def _attended(s: Any, v: Tensor, x: Tensor, mask: Tensor) -> Any:
    return s.last(nn.functional.scaled_dot_product_attention(x, x, v, attn_mask=mask))


def _attended_by_a_buffer(s: Any, v: Tensor, x: Tensor, _: Tensor) -> Any:
    return s.last(nn.functional.scaled_dot_product_attention(x, x, v, attn_mask=s.mask))


@pytest.mark.parametrize("mask", [GIVEN, GIVEN.float() - 1])
def test_a_scale_passes_an_attention_with_any_mask(mask: Tensor) -> None:
    x = torch.randn(2, 3, 4)
    net = Net(_attended, shifts=False)
    result = bncheck.fold(net, (x, mask))
    assert [decision.into for decision in result.batchnorms] == [("last",)]
    with torch.no_grad():
        assert (result.module()(x, mask) - net(x, mask)).abs().max() < 1e-6


def test_a_shift_needs_a_mask_that_is_known_as_the_hint_says() -> None:
    given = (torch.randn(2, 3, 4), GIVEN)
    (kept,) = bncheck.fold(Net(_attended), given).batchnorms
    assert "its mask may leave a query no key, so its shift does not pass" in kept.reason
    assert kept.hint == "store its mask as a buffer that leaves each query a key, or use is_causal"
    (gone,) = bncheck.fold(Net(_attended_by_a_buffer), given).batchnorms
    assert gone.into == ("last",)


READERS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "bilinear": (lambda s, v, x: s.pair(x, v),
                 "second input of pair (bilinear), which multiplies it", "leave it"),
    "bits": (lambda _, v, __: v.view(torch.int32), "reads its bits as another dtype", "leave it"),
    "memory": (lambda s, v, _: s.last(v.contiguous().as_strided((6, 4), (4, 1))),
               "reads its memory place by place", "make as_strided (as_strided) a reshape"),
    "a part of memory": (lambda _, v, __: v.contiguous().as_strided((2, 2), (4, 1)),
                         "reads its memory place by place", "leave it"),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_what_else_reads_it_is_said_truly(name: str) -> None:
    read, reason, hint = READERS[name]
    (kept,) = bncheck.fold(Net(read), torch.randn(2, 3, 4)).batchnorms
    assert reason in kept.reason
    assert kept.hint.startswith(hint)


def test_memory_that_is_read_in_order_can_be_a_reshape() -> None:
    net = Net(lambda s, v, _: s.last(v.contiguous().reshape(6, 4)))
    assert bncheck.fold(net, torch.randn(2, 3, 4)).batchnorms[0].into == ("last",)


@pytest.mark.parametrize(("axis", "folded"), [(1, 1), (0, 1), (2, 0)])
def test_rows_picked_by_a_table_of_places_pass(axis: int, folded: int, tmp_path: Path) -> None:
    """GatherND of [2, 5, 4]: samples, places, or places of the features of each place."""
    shapes = {0: (3, 1), 1: (2, 3, 1), 2: (2, 5, 3, 1)}
    weights = {"w": numbers(4, 2) if axis < 2 else numbers(3, 2), **norm(4)}
    weights["i"] = np.random.default_rng(0).integers(0, 2, shapes[axis])
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1]),
        helper.make_node("BatchNormalization", ["t", *norm(4)], ["n"]),
        helper.make_node("Transpose", ["n"], ["u"], perm=[0, 2, 1]),
        helper.make_node("GatherND", ["u", "i"], ["p"], batch_dims=axis),
        helper.make_node("MatMul", ["p", "w"], ["y"]),
    ]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, 4])]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", given, made, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "net.onnx")
    report, _ = fold_onnx(tmp_path / "net.onnx")
    assert report.folded == folded
    assert report.parity is None or report.parity.holds
