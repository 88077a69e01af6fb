"""BN105 and BN106 where only the weights tell whether a counter is the file's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bncheck import inspect

_MOMENTUM, _UPDATES = 0.1, 3


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(5):
        layers += [nn.Linear(32, 32), nn.BatchNorm1d(32, momentum=_MOMENTUM), nn.ReLU()]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.BatchNorm1d):
                layer.bias.uniform_(0, 1)
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(12).add_(0.5)
    return net


def _updated(net: nn.Sequential, updates: int) -> None:
    for _ in range(updates):
        net(torch.randn(256, 32) + 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_weights_tell_whether_a_small_counter_is_its_own(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    net = _network(seed)
    _updated(net, _UPDATES)
    torch.save(net.eval(), path)
    warmed_too_little = {finding.rule for finding in inspect(path).findings}
    _updated(net.train(), 200)
    for layer in net:
        if isinstance(layer, nn.BatchNorm1d):
            layer.num_batches_tracked.fill_(_UPDATES)  # type: ignore[union-attr]
    torch.save(net.eval(), path)
    ported = {finding.rule for finding in inspect(path).findings}
    assert "BN105" in warmed_too_little
    assert "BN106" not in warmed_too_little
    assert "BN105" not in ported
    assert "BN106" in ported
