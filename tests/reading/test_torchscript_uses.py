"""What a TorchScript module does with running statistics, told without running it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from bncheck.core.errors import BncheckError
from bncheck.reading.listing import Listing
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.pickle_values import Node
from bncheck.reading.torchscript_forward import listed_forward
from bncheck.reading.torchscript_functions import TooMuchCodeError


def _column(t: Tensor) -> Tensor:
    return t.view(1, -1, 1, 1)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn: Any = nn.BatchNorm2d(4)
        self.aux: Any = nn.BatchNorm2d(4)
        self.eps = 1e-5
        self.gain = nn.Parameter(torch.rand(1, 4, 3))


class _ByHand(_Net):
    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.bn.running_mean, self.bn.running_var
        y: Tensor = x - mean[None, :, None, None]
        return y / torch.sqrt(var[None, :, None, None] + self.eps)


class _Scale(_Net):
    def forward(self, x: Tensor) -> Tensor:
        scale = _column(self.bn.weight) * (_column(self.bn.running_var) + 1e-5).rsqrt()
        return x * scale + (_column(self.bn.bias) - _column(self.bn.running_mean) * scale)


class _Power(_Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            root = torch.pow(_column(self.bn.running_var) + 1e-5, -0.5)
        return (x + -_column(self.bn.running_mean)) * root


class _Called(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, self.bn.running_mean, self.bn.running_var, eps=0.25)


class _Standardised(_Net):
    """Weight standardisation calls batch_norm for what is not a layer."""

    def forward(self, x: Tensor) -> Tensor:
        weight = batch_norm(self.gain, None, None, training=True)
        y: Tensor = self.bn(x)
        return y * weight.sum()


class _Looped(_Net):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.size(0)):
            x = self.bn(x)
        return x


class _Negative(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return (x - _column(self.bn.running_mean)) / torch.sqrt(-_column(self.bn.running_var))


class _NegativeEps(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return (x - _column(self.bn.running_mean)) / torch.sqrt(_column(self.bn.running_var) - 5.0)


class _NoRoot(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return (x - _column(self.bn.running_mean)) / (_column(self.bn.running_var) + 1e-5)


class _Times(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return (x - _column(self.bn.running_mean)) * torch.sqrt(_column(self.bn.running_var))


class _Plus(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return (x + _column(self.bn.running_mean)) / torch.sqrt(_column(self.bn.running_var))


class _Swapped(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return (x - _column(self.bn.running_var)) / torch.sqrt(_column(self.bn.running_mean))


class _OneOfThem(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return (x - _column(self.bn.running_mean)) / torch.sqrt(self.bn.running_var[0] + 1e-5)


class _MeanAlone(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return x - _column(self.bn.running_mean)


class _Mixed(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, self.bn.running_mean, self.aux.running_var)


class _MixedByHand(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return (x - _column(self.bn.running_mean)) / torch.sqrt(_column(self.aux.running_var))


class _OfTheBatch(_Net):
    def forward(self, x: Tensor) -> Tensor:
        mean, var = x.mean([0, 2, 3], keepdim=True), x.var([0, 2, 3], keepdim=True)
        return (x - mean) / torch.sqrt(var + 1e-5) * _column(self.bn.weight)


class _Nobodys(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, None, None, training=True)


class _LoopedByHand(_Net):
    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.bn.running_mean, self.bn.running_var
        for _ in range(x.size(0)):
            x = (x - _column(mean)) / torch.sqrt(-_column(var))
        return x


class _Depends(_Net):
    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.bn.running_mean, self.bn.running_var
        return batch_norm(x, mean, var, training=x.size(0) > 1)


class _InTraining(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, self.bn.running_mean, self.bn.running_var, training=True)


class _WithoutStatistics(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, None, None, self.bn.weight, self.bn.bias, training=True)


class _OwnNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, self.running_mean, self.running_var, self.weight, training=True)


class _Owned(_Net):
    def __init__(self) -> None:
        super().__init__()
        self.bn = _OwnNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(x)
        return y


_SOUND = (_ByHand, _Scale, _Power, _Called, _Standardised, _Looped)
_LIES = (_Negative, _NegativeEps, _NoRoot, _Times, _Plus, _Swapped, _OneOfThem, _MeanAlone, _Mixed,
         _MixedByHand, _OfTheBatch, _Nobodys, _LoopedByHand, _Depends)  # fmt: skip
_BY_BATCH = (_InTraining, _WithoutStatistics, _Owned)


def _save(net: Callable[[], nn.Module], traced: bool, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = net().eval()
        jit: Any = torch.jit
        x = torch.rand(2, 4, 3, 3)
        made = jit.trace(module, x, check_trace=False) if traced else jit.script(module)
        made.save(str(path))
    return path


def _saved(nets: tuple[type[nn.Module], ...]) -> list[tuple[type[nn.Module], bool]]:
    """Scripted and traced, but for what a trace has not: loops that depend on sizes, symbols."""
    scripted = [(net, False) for net in nets]
    return scripted + [(n, True) for n in nets if n not in (_Looped, _LoopedByHand, _Depends)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("net", "traced"), _saved(_SOUND))
def test_what_normalises_is_read(net: type[nn.Module], traced: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(_save(net, traced, tmp_path / "model.pt"))
    assert "bn" in checkpoint.modules
    assert not checkpoint.modules["bn"].training


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("net", "traced"), _saved(_LIES))
def test_what_does_not_is_refused(net: type[nn.Module], traced: bool, tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match="is not plain normalising by them"):
        open_checkpoint(_save(net, traced, tmp_path / "model.pt"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("net", "traced"), _saved(_BY_BATCH))
def test_the_batch_is_told(net: type[nn.Module], traced: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(_save(net, traced, tmp_path / "model.pt"))
    assert checkpoint.modules["bn"].training


@pytest.mark.filterwarnings("ignore")
def test_eps_is_that_of_the_call(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(_save(_Called, False, tmp_path / "model.pt"))
    assert checkpoint.modules["bn"].eps == 0.25


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("net", "read"), [(_Looped, True), (_ByHand, False)])
def test_a_model_too_large_to_follow_is_looked_at_norm_by_norm(
    net: type[nn.Module], read: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where other code speaks of statistics, too, that does not say all."""
    path = _save(net, False, tmp_path / "model.pt")
    walk, module = listed_forward, net.__name__

    def limited(root: Node, *rest: Any) -> Listing:
        if module in str(root.function):
            raise TooMuchCodeError
        return walk(root, *rest)

    monkeypatch.setattr("bncheck.reading.torchscript.listed_forward", limited)
    if read:
        assert not open_checkpoint(path).modules["bn"].training
    else:
        with pytest.raises(BncheckError, match="too much code"):
            open_checkpoint(path)
