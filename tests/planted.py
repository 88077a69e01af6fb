"""Faults planted in sound networks: what each is called, and how it came about.

    python -m tests.planted 41 42

trains digit networks on the given seeds, plants every fault, and prints what bncheck finds.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "sample_models"
sys.path.insert(0, str(SAMPLES))

from nets import DigitNet as DigitNet  # noqa: E402

MEAN, STD = 0.3054, 0.3760


class DropoutNet(DigitNet):
    """Dropout before the third and fourth normalisation layer."""

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__(momentum)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(self.drop(x))))
        x = x.mean(dim=(2, 3))
        x = torch.relu(self.bn4(self.fc1(self.drop(x))))
        logits: Tensor = self.fc2(x)
        return logits


@dataclass(frozen=True)
class Case:
    """One network, the data to hold it against, and the finding that should be made."""

    name: str
    model: nn.Module
    data: Any
    code: str | None
    layer: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    mendable: bool = True


def digits(split: str) -> tuple[Tensor, Tensor]:
    with np.load(SAMPLES / f"digits-{split}.npz") as archive:
        return torch.from_numpy(archive["x"]), torch.from_numpy(archive["y"])


def train(
    seed: int,
    net: DigitNet | None = None,
    *,
    batch_size: int = 32,
    epochs: int = 10,  # after which 99 % of the test images are named
    lr: float = 0.05,
    max_steps: int = 10**9,
    snapshots: dict[int, dict[str, Tensor]] | None = None,
) -> DigitNet:
    torch.manual_seed(seed)
    net = net or DigitNet()
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    x, y = digits("train")
    steps = min(epochs * (len(x) // batch_size), max_steps)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    step = 0
    for epoch in range(1, epochs + 1):
        for index in torch.split(torch.randperm(len(x)), batch_size):
            if len(index) < batch_size or step == steps:
                break
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step += 1
        if snapshots is not None:
            snapshots[epoch] = copy.deepcopy(net.state_dict())
    return net.eval()


def healthy() -> DigitNet:
    """The trained network of sample_models/healthy.pt, for the caller to change."""
    from bncheck.reading.opening import open_checkpoint
    from bncheck.subject.model import load_weights

    net = DigitNet()
    load_weights(net, open_checkpoint(SAMPLES / "healthy.pt"))
    return net.eval()


def norms_of(net: nn.Module) -> list[Any]:
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def with_state(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    net = copy.deepcopy(net)
    net.load_state_dict(state)
    return net.eval()


@torch.no_grad()
def refreshed(
    net: nn.Module, x: Tensor, *, batch_size: int = 32, momentum: float = 0.1, reset: bool = False,
    passes: int = 1, order: Tensor | None = None, max_steps: int = 10**9, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """A copy whose statistics followed some batches; the weights stay."""
    net = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(seed)
    for norm in norms_of(net):
        norm.momentum = momentum
        if reset:
            norm.reset_running_stats()
    net.train()
    step = 0
    for _ in range(passes):
        indices = torch.randperm(len(x), generator=generator) if order is None else order
        for index in torch.split(indices, batch_size):
            if len(index) == batch_size and step < max_steps:
                net(x[index])
                step += 1
    for norm in norms_of(net):
        norm.momentum = 0.1
    return net.eval()


def reset_layer(net: nn.Module, name: str) -> nn.Module:
    net = copy.deepcopy(net)
    layer = net.get_submodule(name)
    layer.reset_running_stats()  # type: ignore[operator]
    return net


def averaged(first: nn.Module, second: nn.Module) -> nn.Module:
    other = second.state_dict()
    state = {
        name: (value + other[name]) / 2 if value.is_floating_point() else value
        for name, value in first.state_dict().items()
    }
    return with_state(first, state)


def digit_cases(seed: int) -> Iterator[Case]:
    """Every fault of the reference's catalogue, on networks trained with this seed."""
    x, y = digits("train")
    snapshots: dict[int, dict[str, Tensor]] = {}
    healthy = train(seed, snapshots=snapshots)
    yield Case("healthy", healthy, (x, y), None)
    yield Case("healthy, test images", healthy, digits("test"), None)
    yield Case("healthy, 64 images", healthy, (x[:64], y[:64]), None)
    untouched = train(seed, DigitNet(momentum=0.0), epochs=3)
    yield Case("never updated", untouched, (x, y), "BN101", "bn1")
    for name in ("bn1", "bn2", "bn3", "bn4"):
        yield Case(f"{name} reset", reset_layer(healthy, name), (x, y), "BN101", name)
    order = torch.argsort(y, stable=True)
    yield Case("sorted last pass", refreshed(healthy, x, order=order), (x, y), "BN204", "bn4")
    unit = x * STD + MEAN
    stem = "bn1"
    yield Case("images in 0..1", healthy, (unit, y), "BN205", stem, mendable=False)
    yield Case("images in 0..255", healthy, (unit * 255, y), "BN205", stem, mendable=False)
    half = (unit - 0.5) / 0.5
    yield Case("images with .5/.5", healthy, (half, y), "BN205", stem, mendable=False)
    yield Case("images inverted", healthy, ((1 - unit - MEAN) / STD, y), "BN205", stem,
               mendable=False)  # fmt: skip
    yield Case("statistics of 0..1", refreshed(healthy, unit, passes=3), (x, y), "BN205", stem)
    noisy = train(seed, DigitNet(momentum=0.9), batch_size=4, epochs=2, lr=0.01)
    yield Case("momentum .9, batch 4", noisy, (x, y), "BN201", "bn4")
    state = healthy.state_dict()
    buffers = [n for n in state if "running" in n]
    stale = state | {name: snapshots[3][name] for name in buffers}
    yield Case("statistics of epoch 3", with_state(healthy, stale), (x, y), "BN202")
    other = train(seed + 100, epochs=3)
    yield Case("two models averaged", averaged(healthy, other), (x, y), "BN203")
    dropped = train(seed, DropoutNet(), epochs=5)
    yield Case("dropout before BN", dropped, (x, y), "BN206")
    warming = train(seed, DigitNet(momentum=0.01), batch_size=64, max_steps=100)
    yield Case("under-warmed", warming, (x, y), "BN105")


# --- other people's networks ----------------------------------------------------------------------

REAL = ROOT.parent / "shared" / "real"
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def real_folder() -> Path | None:
    """Where other people's checkpoints are kept, if they are."""
    import os

    folder = Path(os.environ.get("BNCHECK_REAL", REAL))
    return folder if (folder / "INDEX.md").is_file() else None


def cifar() -> tuple[Tensor, Tensor]:
    """2000 images in 0..1 with their labels."""
    folder = real_folder()
    assert folder is not None
    with np.load(folder / "data" / "cifar10_train2000.npz") as archive:
        x = torch.from_numpy(archive["x"]).permute(0, 3, 1, 2).float() / 255
        return x, torch.from_numpy(archive["y"]).long()


def normalised(x: Tensor) -> Tensor:
    mean, std = torch.tensor(CIFAR_MEAN), torch.tensor(CIFAR_STD)
    return (x - mean[:, None, None]) / std[:, None, None]


def augmented(x: Tensor, seed: int = 0) -> Tensor:
    """As in training: black padding of 4 before normalisation, random crop, random flip."""
    generator = torch.Generator().manual_seed(seed)
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    out = torch.empty_like(x)
    for i in range(len(x)):
        top, left = (int(n) for n in torch.randint(0, 9, (2,), generator=generator))
        crop = padded[i, :, top : top + 32, left : left + 32]
        out[i] = crop.flip(-1) if torch.rand((), generator=generator) < 0.5 else crop
    return out


def resnet(depth: int) -> nn.Module:
    """akamaster's network with its own weights."""
    from bncheck.reading.opening import open_checkpoint
    from bncheck.subject.model import load_weights
    from tests.resnet import ResNet

    folder = real_folder()
    assert folder is not None
    net = ResNet(depth)
    load_weights(net, open_checkpoint(folder / "checkpoints" / f"resnet{depth}-cifar10.th"))
    return net.eval()


def trained_on(net: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float, seed: int) -> nn.Module:
    """A copy after some more steps of SGD."""
    net = copy.deepcopy(net)
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    net.train()
    for _ in range(steps):
        index = torch.randint(0, len(x), (32,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


def resnet_cases(depth: int, seed: int, samples: int = 512) -> Iterator[Case]:
    """The same faults in a real ResNet; `samples` reference images."""
    healthy = resnet(depth)
    raw, y = cifar()
    like = augmented(raw, seed)
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(seed))[:samples]
    labels = y[order]
    x = normalised(like)[order]

    def data(images: Tensor) -> tuple[Tensor, Tensor]:
        return images, labels

    training = normalised(like)
    yield Case("healthy", healthy, data(x), None)
    yield Case("clean images", healthy, data(normalised(raw)[order]), "BN205?", mendable=False)
    untouched = copy.deepcopy(healthy)
    for norm in norms_of(untouched):
        norm.reset_running_stats()
    yield Case("never updated", untouched, data(x), "BN101")
    middle = "layer2.0.bn1"
    yield Case("one layer reset", reset_layer(healthy, middle), data(x), "BN101", middle)
    unit = like[order]
    yield Case("images in 0..1", healthy, data(unit), "BN205", "bn1", mendable=False)
    yield Case("images in 0..255", healthy, data(unit * 255), "BN205", "bn1", mendable=False)
    yield Case("images with .5/.5", healthy, data((unit - 0.5) / 0.5), "BN205", "bn1",
               mendable=False)  # fmt: skip
    yield Case("BGR", healthy, data(normalised(unit.flip(1))), "BN205", "bn1", mendable=False)
    yield Case("inverted", healthy, data(normalised(1 - unit)), "BN205", "bn1", mendable=False)
    by_class = torch.argsort(y, stable=True)[-1024:]  # of batches before nothing is left
    yield Case("sorted last pass", refreshed(healthy, training, order=by_class), data(x), "BN204")
    yield Case(
        "momentum .9, batch 4",
        refreshed(
            healthy, training, batch_size=4, momentum=0.9, reset=True, max_steps=100, seed=seed
        ),
        data(x),
        "BN201",
    )
    yield Case(
        "under-warmed",
        refreshed(healthy, training, batch_size=16, momentum=0.01, reset=True, max_steps=60),
        data(x), "BN105",
    )  # fmt: skip
    later = trained_on(healthy, training, y, 30, 0.05, seed)
    before = {n: v for n, v in healthy.state_dict().items() if "running" in n}
    old = with_state(later, later.state_dict() | before)
    yield Case("statistics of 30 steps ago", old, data(x), "BN202")
    yield Case("two models averaged", averaged(healthy, trained_elsewhere(depth, seed)), data(x),
               "BN203")  # fmt: skip


def trained_elsewhere(depth: int, seed: int) -> nn.Module:
    """The same network with the channels inside its blocks permuted: the same function, elsewhere.

    Averaging two trainings averages units that do not correspond; a permuted copy is just that.
    """
    net = resnet(depth)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in net.modules():
            if hasattr(block, "conv2") and hasattr(block, "bn1"):
                bn: Any = block.bn1
                order = torch.randperm(bn.num_features, generator=generator)
                block.conv1.weight.copy_(block.conv1.weight[order])  # type: ignore[union-attr,operator,index]
                for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
                    tensor.copy_(tensor[order])
                block.conv2.weight.copy_(block.conv2.weight[:, order])  # type: ignore[union-attr,operator,index]
    return net


# --- the table ------------------------------------------------------------------------------------


def print_table(title: str, cases: Iterator[Case]) -> None:
    """What is found in each case, and what measured statistics are worth there."""
    import bncheck

    print(f"\n{title}")  # noqa: T201
    for case in cases:
        report = bncheck.inspect(case.model, case.data)
        summary = report.summary
        layer = next((f.layer for f in report.findings if f.rule == summary.cause), None)
        right = summary.cause == case.code or (case.code == "BN205?" and summary.cause == "BN205")
        comparison = report.measurement.comparison if report.measurement else None
        results = f"{comparison.before:.3f} -> {comparison.after:.3f}" if comparison else ""
        print(  # noqa: T201
            f"{'' if right else 'WRONG':5} {case.name:27} {summary.cause or '-':6} "
            f"{summary.verdict.value:8} {layer or '':15} W2 {summary.w2 or 0:7.3f}  {results}",
            flush=True,
        )


def main(seeds: list[int]) -> None:
    torch.set_num_threads(1)
    for seed in seeds:
        print_table(f"digits, seed {seed}", digit_cases(seed))
    if real_folder() is not None:
        for depth in (20, 44):
            print_table(f"ResNet-{depth}, seed {seeds[0]}", resnet_cases(depth, seeds[0], 256))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [41])
