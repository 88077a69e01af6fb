"""What the model was before the fold is told from the folded one, without another conversion."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

import bncheck
from bncheck.folding.fold import FoldOptions
from bncheck.folding.program.fold import fold
from bncheck.folding.residual import Residual
from bncheck.shipping.axes import Axes, traced
from bncheck.shipping.report import node_counts
from bncheck.shipping.torch_to_onnx import to_onnx
from bncheck.shipping.unfolded import unfolded
from tests.architectures import ARCHITECTURES, randomised


class _Ends(nn.Module):
    """A norm of the input, one that two calls read, one read beside its input, an output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (3, 4, 4, 4))
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.silu(self.norms[1](self.conv(self.norms[0](x))))
        z = self.norms[2](y)
        out: torch.Tensor = self.norms[3](self.twice(nn.functional.hardswish(self.gate(z)) * y))
        return out


Build = Callable[[], nn.Module]


@cache
def _converted(build: Build, shape: tuple[int, ...]) -> tuple[ExportedProgram, onnx.ModelProto]:
    torch.manual_seed(0)
    plain = traced(randomised(build()), (torch.randn(shape),), Axes())
    return plain, to_onnx(plain, ["x"], ["y"]).model


def _both(
    build: Build, shape: tuple[int, ...], form: Residual
) -> tuple[onnx.ModelProto | None, onnx.ModelProto]:
    plain, converted = _converted(build, shape)
    shipped = fold(plain, None, FoldOptions(residual=form)).program
    made = to_onnx(shipped, ["x"], ["y"])
    return unfolded(made.model, made.calls, plain, shipped), converted


class _Biasless(nn.Module):
    """A linear layer that gets a bias: of vectors one Gemm with it and without, or a sum more."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x)
        z: torch.Tensor = self.norm(y.transpose(1, 2) if y.ndim == 3 else y)
        return z


@pytest.mark.parametrize(
    ("build", "shape", "form"),
    [
        *(
            (build, (2, 3, 32, 32), form)
            for build in (_Ends, ARCHITECTURES["resnet, preactivated"][0])
            for form in (Residual.CONV, Residual.MULADD)
        ),
        (_Biasless, (2, 6), Residual.CONV),
    ],
)
def test_it_has_the_nodes_of_the_model_that_was_not_folded(
    build: Build, shape: tuple[int, ...], form: Residual
) -> None:
    made, converted = _both(build, shape, form)
    assert made is not None
    assert node_counts(made) == node_counts(converted)
    onnx.checker.check_model(made, full_check=True)


def test_what_became_another_call_is_converted(tmp_path: Path) -> None:
    made, converted = _both(_Biasless, (2, 5, 6), Residual.CONV)
    assert made is None
    net = randomised(_Biasless())
    report = bncheck.export(net, torch.randn(2, 5, 6), tmp_path / "n.onnx", timing=False)
    assert report.before == node_counts(converted)
