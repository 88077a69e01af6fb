"""A forward that is followed without inputs, and a pickled module of which the order is known."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import bncheck
from bncheck.cli import run
from bncheck.inspecting.chains import chains_of, module_chains, traced_chains
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading.module_calls import CLASSES
from bncheck.reading.opening import open_checkpoint
from bncheck.rules.rule import Network
from bncheck.rules.static.bn117_other_weights import other_weights
from bncheck.subject.module_layers import layers_of
from bncheck.subject.setup import in_memory
from tests.architectures import randomised
from tests.networks import SAMPLES


class _Net(nn.Module):
    """Functions, methods, cuts, sums and changes in place, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 24, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(16), nn.BatchNorm2d(24)
        self.c, self.bn3 = nn.Conv2d(36, 16, 3), nn.BatchNorm2d(16)
        self.fc, self.bn4 = nn.Linear(16, 12), nn.BatchNorm1d(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.bn1(self.a(x))
        y += x
        y = F.leaky_relu(y, 0.1, inplace=True)
        z = F.hardswish(self.bn2(self.b(y)))
        first, second = z.chunk(2, dim=1)
        z = torch.cat(
            [first, F.max_pool2d(second, 3, 1, 1), F.pad(x[:, :8], (0, 0, 0, 0, 2, 2))], 1
        )
        z = F.dropout(F.relu(self.bn3(self.c(z))), 0.1, training=self.training)
        z = F.adaptive_avg_pool2d(z, 1).flatten(1)
        out: torch.Tensor = self.bn4(self.fc(z))
        return out


def _fitted(model: nn.Module, *shape: int) -> nn.Module:
    torch.manual_seed(1)
    for module in randomised(model).modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(*shape))
    return model.eval()


def test_a_forward_is_followed_without_inputs() -> None:
    model = _fitted(_Net(), 64, 3, 16, 16)
    chains = traced_chains(model, layers_of(in_memory(model)))
    assert chains is not None
    assert [chain.layer for chain in chains.found] == ["bn1", "bn2", "bn3", "bn4"]
    assert chains.number == 5
    exported = module_chains(model, (torch.randn(4, 3, 16, 16),), layers_of(in_memory(model)))
    assert exported is not None
    for ours, theirs in zip(chains.found, exported.found, strict=True):
        assert (ours.correlation, ours.deviation) == pytest.approx(
            (theirs.correlation, theirs.deviation), abs=1e-4
        )


class _Asks(_Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def test_a_forward_that_asks_for_numbers_is_not_followed() -> None:
    model = _Asks().eval()
    assert traced_chains(model, layers_of(in_memory(model))) is None


def test_the_model_names_the_layer_where_the_file_alone_is_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(SAMPLES / "healthy.pt", weights_only=True)["state_dict"]
    name = [name for name in state if name.endswith("running_mean")][2]
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "sound.pt")
    state[name] = state[name].roll(7)
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "net.pt")
    model = ["--model", f"{SAMPLES}/nets.py:DigitNet", "--select", "BN117", "--json"]
    assert run(["inspect", str(tmp_path / "sound.pt"), *model]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    assert run(["inspect", str(tmp_path / "net.pt"), *model]) == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["layer"] == f"module.{name.rpartition('.')[0]}"


def _vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 24), (24, 24), (24, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Tanh())  # fmt: skip


def test_a_pickled_sequential_names_the_layer(tmp_path: Path) -> None:
    model = _fitted(_vgg(), 64, 3, 16, 16)
    torch.save(model, tmp_path / "net.pt")
    checkpoint = open_checkpoint(tmp_path / "net.pt")
    chains = chains_of(checkpoint, tuple(find_layers(checkpoint, Assumptions(None, None))))
    assert chains.certain
    assert [c.layer for c in chains.found] == ["0.4", "0.7", "0.10", "0.13", "4"]
    assert bncheck.inspect(tmp_path / "net.pt", select=["BN117"]).findings == ()
    norm = model.get_submodule("0.7")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.neg_()
    torch.save(model, tmp_path / "net.pt")
    (found,) = bncheck.inspect(tmp_path / "net.pt", select=["BN117"]).findings
    assert (found.severity, found.layer) == ("error", "0.7")


class _Reversed(nn.Sequential):
    """Not torch's own: its forward may do anything."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in reversed(self):
            x = module(x)
        return x


def test_the_order_of_somebody_s_own_class_is_not_known(tmp_path: Path) -> None:
    layers = (nn.ReLU(), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
    torch.save(_fitted(_Reversed(*layers), 64, 16, 4, 4), tmp_path / "net.pt")
    checkpoint = open_checkpoint(tmp_path / "net.pt")
    assert not chains_of(
        checkpoint, tuple(find_layers(checkpoint, Assumptions(None, None)))
    ).certain


def test_classes_are_torch_s() -> None:
    """Each is there, and has what its call is said to take."""
    samples = {"Linear": (8, 8), "Flatten": (), "PixelShuffle": (2,)}
    for name, known in CLASSES.items():
        build = getattr(nn, name)
        sizes = (8, 8, 3) if name.startswith("Conv") else (4,) if "Pool" in name else ()
        module = build(*samples.get(name, sizes or ((8,) if "Norm" in name else ())))
        held = {**module._parameters, **module._buffers}
        assert all(tensor in held for tensor in known.tensors)
        assert all(hasattr(module, word) for word in known.settings.split())
        assert hasattr(torch.ops.aten, known.operator)


def test_images_that_have_shrunk_to_one_position_are_no_other_weights() -> None:
    """A network for ImageNet on CIFAR: there only the centre of a padded kernel sees numbers."""
    channels = (3, 16, 32, 64, 64, 64, 64)
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        stride = 2 if place < 4 else 1
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    model = _fitted(nn.Sequential(*layers), 512, 3, 16, 16)

    def judged() -> list[tuple[str, str | None]]:
        subject = layers_of(in_memory(model))
        chains = traced_chains(model, subject)
        assert chains is not None
        found = other_weights.check(Network(subject, chains=chains))
        return [(finding.severity.value, finding.layer) for finding in found]

    assert judged() == []
    norm = model.get_submodule("13")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean = norm.running_mean.roll(9)
    assert judged() == [("error", "13")]
