"""TorchScript code that writes in place: into activations and buffers, or into statistics."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint

_WAYS = ("trace", "script", "freeze")


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(4)
        self.register_buffer("cache", torch.zeros(4))
        self.cache: Tensor


class _Chain(_Net):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(x).clone()
        y += 1.0
        y.mul_(2.0)
        y[:, 0] = 0.0
        return y


class _Cache(_Net):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(x)
        self.cache.mul_(0.9).add_(0.1 * y.mean(0))
        return y


class _Recurrent(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.rnn(x.unsqueeze(1))[0].relu_()[:, -1])
        return y


class _Output(_Net):
    """A variable called output is not the argument `out`."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.bn.weight[:2]
        output = weight if x.size(0) > 1 else self.bn.weight
        y: Tensor = self.bn(x)
        return y * output.sum()


class _ChainOfStatistics(_Net):
    def forward(self, x: Tensor) -> Tensor:
        mean = self.bn.running_mean
        assert mean is not None
        mean.mul_(0.5).add_(1.0)
        y: Tensor = self.bn(x)
        return y


class _ChainThenView(_Net):
    def forward(self, x: Tensor) -> Tensor:
        mean = self.bn.running_mean
        assert mean is not None
        mean.view(2, 2).t().add_(1.0)[0].mul_(2.0)
        y: Tensor = self.bn(x)
        return y


class _Shared(_Net):
    """A tensor that is made to share the storage of a statistic, then written into."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.bn.running_mean
        assert mean is not None
        z = torch.zeros_like(mean)
        z.set_(mean)  # type: ignore[call-overload]
        z.add_(1.0)
        y: Tensor = self.bn(x)
        return y + z.sum()


class _Out(_Net):
    def forward(self, x: Tensor) -> Tensor:
        mean = self.bn.running_mean
        assert mean is not None
        output = torch.add(mean, 1.0, out=mean)
        y: Tensor = self.bn(x)
        return y + output.sum()


def _save(net: type[nn.Module], way: str, path: Path) -> Path:
    jit: Any = torch.jit
    module = net().eval()
    if way == "trace":
        made = jit.trace(module, torch.rand(2, 4), check_trace=False)
    else:
        made = jit.script(module)
        made = jit.freeze(made, optimize_numerics=False) if way == "freeze" else made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save(str(path))
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("net", [_Chain, _Cache, _Recurrent, _Output])
def test_what_writes_elsewhere_is_read(net: type[nn.Module], way: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(_save(net, way, tmp_path / "model.pt"))
    assert [module.training for module in checkpoint.modules.values()] == [False]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("net", [_ChainOfStatistics, _ChainThenView, _Shared, _Out])
def test_what_writes_into_statistics_is_refused(
    net: type[nn.Module], way: str, tmp_path: Path
) -> None:
    with pytest.raises(BncheckError, match="running statistics"):
        open_checkpoint(_save(net, way, tmp_path / "model.pt"))
