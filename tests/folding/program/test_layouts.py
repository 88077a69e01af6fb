"""Models that run are folded however their values lie in memory, and at the sizes they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from bncheck.core.errors import BncheckError
from bncheck.folding.program.fold import fold
from bncheck.folding.program.parity import ProgramSides
from tests.architectures import randomised


class _Attention(nn.Module):
    """What it changes in place makes torch decompose it, with the strides of one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bn = nn.Parameter(torch.randn(4, 4, 6)), nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.conv, self.last = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(torch.einsum("bcl,cdl->bdl", x, self.weight)).transpose(1, 2)
        z = self.attention(y, y, y)[0].transpose(1, 2).clone()
        z[:, 0] = 0
        found: torch.Tensor = self.last(self.conv(z))
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_after_a_decomposition_run(dtype: torch.dtype) -> None:
    net, x = randomised(_Attention()).to(dtype), torch.randn(2, 4, 6, dtype=dtype)
    result = fold(net, x)
    result.refuse_unsound()
    assert result.report.folded == 2
    other = torch.randn(5, 4, 6, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(result.module()(other), net(other), rtol=1e-4, atol=1e-5)


class _ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.bn(self.conv(x)), x.permute(0, 2, 3, 1).view(-1, 3)


def test_a_view_of_inputs_in_channels_last_takes_fresh_ones() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    shapes = ({0: Dim.AUTO},)
    program = torch.export.export(randomised(_ChannelsLast()), (x,), dynamic_shapes=shapes)
    result = fold(program, None)
    result.refuse_unsound()
    assert result.parity is not None
    assert result.parity.batches == (2, 1)


class _Specialised(nn.Module):
    """Takes any batch; torch.export fixes it, with a symbol that has one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)
        self.register_buffer("places", torch.tensor([[[0], [2], [1], [3]]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv(x.reshape(-1, 6).view(x.shape)))
        return torch.take_along_dim(y, self.places, 1)  # type: ignore[arg-type]


def test_a_batch_that_torch_export_fixes_is_compared_at_its_size() -> None:
    result = fold(randomised(_Specialised()), torch.randn(3, 4, 6))
    result.refuse_unsound()
    assert result.parity is not None
    assert set(result.parity.batches) == {3}
    assert result.module()(torch.randn(3, 4, 6)).shape == (3, 4, 6)


def test_a_fold_that_cannot_be_run_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(ProgramSides, "folded", fails)
    net = randomised(nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)))
    result = fold(net, torch.randn(2, 3, 4))
    (kept,) = result.report.kept
    assert kept.reason == (
        "its fold cannot be run for the comparison (no such kernel), so it is not proven"
    )


def test_a_model_that_cannot_be_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(ProgramSides, "original", fails)
    net = randomised(nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)))
    with pytest.raises(BncheckError, match=r"cannot be run for the comparison \(no such operator"):
        fold(net, torch.randn(2, 3, 4))
