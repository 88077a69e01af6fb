"""Trained networks, kept between runs: a folder outside the repository holds their weights."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests import planted
from tests.diagnosis import networks, other_outputs
from tests.diagnosis.networks import Task

State = dict[str, Tensor]
#: To be raised when networks, data or training change: kept weights are then trained anew.
VERSION = 1
CACHE = Path(os.environ.get("BNCHECK_TRAINED", "/tmp/bncheck-trained"))


@dataclass(frozen=True)
class Network:
    """An architecture, its task and how it is trained; `real` ones come with their weights."""

    name: str
    build: Callable[[], nn.Module]
    task: Callable[[], Task]
    epochs: int = 12
    lr: float = 0.02
    samples: int = 1024
    real: bool = False
    labelled: bool = True  # whether bncheck is given the labels

    @property
    def model(self) -> nn.Module:
        """The sound network."""
        if self.real:
            return self.build()
        return self.trained()

    def trained(self, seed: int = 0, **how: Any) -> nn.Module:
        """One trained otherwise, or from another seed."""
        return planted.with_state(self.build(), self.state(seed, **how))

    def state(self, seed: int = 0, **how: Any) -> State:
        """Its weights, from the cache where they are."""
        source = repr((VERSION, self.name, self.epochs, self.lr, seed, sorted(how.items())))
        path = CACHE / f"{self.name}-{hashlib.sha256(source.encode()).hexdigest()[:16]}.pt"
        if not path.is_file():
            state = train(self, seed, **how).state_dict()
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}")
            torch.save(state, unfinished)
            unfinished.replace(path)
        loaded: State = torch.load(path, weights_only=True)
        return loaded


def train(
    network: Network, seed: int = 0, *, start: tuple[tuple[str, Any], ...] | None = None,
    epochs: float = 0, batch_size: int = 32, momentum: float | None = 0.1, constant: bool = False,
    smoothing: float = 0.0, mixup: bool = False, frozen: bool = False, shift: float = 0.0,
    average: str = "", lr: float = 0.0, plain: str = "",
) -> nn.Module:  # fmt: skip
    """Train with SGD and a cosine rate.

    From the weights of another training (`start` are its options), at a `constant` rate, with norms
    `frozen` in eval(), on data moved by `shift`; `average` is swa or ema: averaged weights with the
    buffers of the last step. `plain` names a norm that stays at 0/1 in eval().
    """
    torch.manual_seed(seed)
    net = network.build()
    if start is not None:
        net.load_state_dict(network.state(seed, **dict(start)))
    elif network.real:
        net = network.model
    task = network.task()
    x, y = task.x + shift, task.y
    for norm in planted.norms_of(net):
        norm.momentum = momentum
    steps = max(1, int((epochs or network.epochs) * len(x) / batch_size))
    optimizer = torch.optim.SGD(net.parameters(), lr or network.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    averaged: State = {}
    net.train()
    for norm in planted.norms_of(net) if frozen else [net.get_submodule(plain)] if plain else []:
        norm.eval()
    for step in range(steps):
        index = torch.randint(0, len(x), (batch_size,))
        inputs, target = x[index], y[index]
        optimizer.zero_grad()
        if mixup:
            share = float(torch.distributions.Beta(0.3, 0.3).sample())
            out = net(share * inputs + (1 - share) * inputs.flip(0))
            loss = share * task.loss(out, target) + (1 - share) * task.loss(out, target.flip(0))
        elif smoothing:
            loss = F.cross_entropy(net(inputs), target, label_smoothing=smoothing)
        else:
            loss = task.loss(net(inputs), target)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        if not constant:
            schedule.step()
        _follow(averaged, net, average, step, steps)
    net.load_state_dict(net.state_dict() | averaged)
    for norm in planted.norms_of(net):
        norm.momentum = 0.1
    return net.eval()


def _follow(averaged: State, net: nn.Module, kind: str, step: int, steps: int) -> None:
    """Bring an average of weights up to date; buffers are not part of it."""
    if not kind or step < steps / 3:
        return
    count = step - int(steps / 3) + 1
    rate = 1 / count if kind == "swa" else max(1 / count, 0.02)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name not in averaged:
                averaged[name] = parameter.detach().clone()
            averaged[name] += rate * (parameter - averaged[name])


@torch.no_grad()
def right_answers(task: Task, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which labels it gets right, in eval()."""
    net = copy.deepcopy(net).eval()
    return task.right(torch.cat([net(part) for part in torch.split(x, 256)]), y)


def accuracy(task: Task, net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of labels that it gets right."""
    return float(right_answers(task, net, x, y).float().mean())


def resnet(depth: int) -> Callable[[], nn.Module]:
    """akamaster's ResNet with its own weights."""
    return lambda: planted.resnet(depth)


def digit_net() -> nn.Module:
    """The sample models' network."""
    net: nn.Module = planted.DigitNet()
    return net


#: The diagnosis was tuned on these ...
TUNED = (
    Network("digitnet", digit_net, networks.digits),
    Network("mlp", lambda: networks.Mlp(24, 6, (96, 96, 48)), networks.blobs, 20),
    Network("conv1d", networks.Conv1d, networks.waves),
    Network("resnet20", resnet(20), networks.photos, samples=256, real=True),
)
#: ... and never on these.
HELD_OUT = (
    Network("depthwise", networks.Depthwise, networks.digits, 16),
    Network("unet", networks.UNet, networks.segments, 8, samples=512),
    Network("vit", networks.Vit, networks.digits, 25),
    Network("lstm", networks.Lstm, networks.columns, 30, 0.05),
    Network("table", lambda: networks.Mlp(30, 2, (64, 32, 32)), networks.table, 20, samples=469),
    Network("discriminator", networks.Discriminator, networks.real_and_made, 4),
    Network("resnet44", resnet(44), networks.photos, samples=256, real=True),
)
#: Set aside after the diagnosis was changed for what the ones above showed.
FRESH = (
    Network("pitch", other_outputs.Pitch, other_outputs.pitches, 10),
    Network("regression", lambda: networks.Mlp(10, 1, (64, 48, 48)), other_outputs.friedman, 20),
    Network("generator", other_outputs.Generator, other_outputs.latents, 25, labelled=False),
    Network("preactivation", other_outputs.PreActivation, networks.digits, 10),
)
