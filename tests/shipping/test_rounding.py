"""Right exports of networks that make much of rounding are written, wrong ones are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import bncheck
from bncheck.shipping import export
from bncheck.shipping.torch_to_onnx import to_onnx


class Coarse(nn.Module):
    """Far from zero, float32 has steps of 0.03: much of what the first part computes is lost."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        nn.init.uniform_(self.norm.running_mean, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(torch.relu(self.norm(self.first(x))) + 3e5 - 3e5)
        return y


def test_what_rounding_explains_is_no_difference(tmp_path: Path) -> None:
    net, x = Coarse().eval(), torch.randn(8, 6)
    wide = Coarse().eval().double()
    own = (net(x) - wide(x.double())).abs().max() / wide(x.double()).abs().max()
    assert own > 1e-3  # more than 100 tolerances
    report = bncheck.export(net, x, tmp_path / "net.onnx", timing=False)
    assert report.batchnorm_nodes == 0
    assert report.proof is not None
    assert report.proof.holds


def test_another_function_is_not_excused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not the program that it was written from."""

    def wrong(*given: object) -> object:
        made = to_onnx(*given)  # type: ignore[arg-type]
        for tensor in made.model.graph.initializer:
            if len(tensor.dims) == 2:
                values = np.array(numpy_helper.to_array(tensor)) * np.float32(1.01)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return made

    monkeypatch.setattr(export, "to_onnx", wrong)
    with pytest.raises(bncheck.BncheckError, match="differs from the original"):
        bncheck.export(Coarse().eval(), torch.randn(8, 6), tmp_path / "net.onnx", timing=False)
    assert not (tmp_path / "net.onnx").exists()


class Attention(nn.Module):
    """As T5 calls it: torch's kernel leaves the heads beside each other, its decomposition not."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.bias = nn.Embedding(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length = x.shape[:2]
        parts = (self.q, self.k, self.v)
        q, k, v = (part(x).view(n, length, -1, 4).transpose(1, 2) for part in parts)
        places = torch.arange(length)
        mask = self.bias((places[:, None] - places).clamp(0, 3)).permute(2, 0, 1)[None]
        mask = mask.expand(n, -1, -1, -1).contiguous()
        y = nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=1.0)
        return y.reshape(n, -1, length, 4).transpose(1, 2).reshape(n, length, -1)


def test_a_view_of_an_attention_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = bncheck.export(Attention().eval(), torch.randn(2, 5, 8), tmp_path / "a.onnx")
    assert report.proof is not None
    assert report.proof.holds
