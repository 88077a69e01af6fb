"""What an exported program does with running statistics, beside the norms that take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint

_EPS = 1e-5


class _Net(nn.Module):
    """`use` is given the input and a norm, which torch may not call."""

    def __init__(self, use: Callable[[Tensor, nn.BatchNorm2d], Tensor]) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(4)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(x, self.bn)


def _wide(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor[None, :, None, None]


def _var(bn: nn.BatchNorm2d) -> Tensor:
    assert bn.running_var is not None
    return bn.running_var


def _scaled(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    """As FrozenBatchNorm2d of torchvision."""
    scale = _wide(bn.weight) * (_wide(bn.running_var) + _EPS).rsqrt()
    return x * scale + (_wide(bn.bias) - _wide(bn.running_mean) * scale)


def _divided(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    return (x - _wide(bn.running_mean)) / torch.sqrt(_wide(bn.running_var) + _EPS)


def _cast(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    return (x - _wide(bn.running_mean).half()) * (_wide(bn.running_var).double() + _EPS).rsqrt()


def _twice(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    return bn(_scaled(x, bn)) + bn(x)  # type: ignore[no-any-return]


def _without_gradients(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    with torch.no_grad():
        return _scaled(x, bn)


def _through_a_view(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    _var(bn).view(2, 2).fill_(9)
    return bn(x)  # type: ignore[no-any-return]


def _some_channels(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    _var(bn)[1:].mul_(-1)
    return bn(x)  # type: ignore[no-any-return]


def _inside_a_graph(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    with torch.no_grad():
        _var(bn).mul_(9)
    return bn(x)  # type: ignore[no-any-return]


def _without_root(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    return (x - _wide(bn.running_mean)) / _wide(bn.running_var)


def _the_wrong_way(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    return (_wide(bn.running_mean) - x) * (_wide(bn.running_var) + _EPS).rsqrt()


def _other_statistics(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    var = _var(bn) * 9
    return nn.functional.batch_norm(x, bn.running_mean, var, bn.weight, bn.bias)


_Use = Callable[[Tensor, nn.BatchNorm2d], Tensor]
_SOUND: tuple[_Use, ...] = (_scaled, _divided, _cast, _twice, _without_gradients)
_NOT: tuple[_Use, ...] = (
    *(_through_a_view, _some_channels, _inside_a_graph, _without_root, _the_wrong_way),
    _other_statistics,
)


def _exported(use: _Use, path: Path, decomposed: bool = False) -> Path:
    program = torch.export.export(_Net(use).eval(), (torch.rand(2, 4, 3, 3),))
    if decomposed:
        from torch._inductor.decomposition import decompositions

        program = program.run_decompositions(decompositions)
    torch.export.save(program, path)
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("use", _SOUND)
def test_what_normalises_by_them_is_read(use: _Use, decomposed: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(_exported(use, tmp_path / "a.pt2", decomposed))
    assert "bn.running_var" in checkpoint.tensors


@pytest.mark.parametrize("use", _NOT)
def test_what_does_not_is_refused(use: _Use, tmp_path: Path) -> None:
    path = _exported(use, tmp_path / "a.pt2")
    with pytest.raises(BncheckError, match="running statistics") as refused:
        open_checkpoint(path)
    assert "state dict" in refused.value.hint
    assert "torch.export" not in refused.value.hint
