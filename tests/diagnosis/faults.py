"""What can go wrong with running statistics and weights: functions from a network to a state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tests import planted
from tests.diagnosis.training import Network


class Truth(StrEnum):
    """Where the fault is."""

    SOUND = "sound"
    STATISTICS = "statistics"
    DATA = "data"
    WEIGHTS = "weights"


@dataclass(frozen=True)
class State:
    """A network, data, and what is wrong with them.

    `codes` are the right names, `layers` where it is (empty: anywhere), `twin` the sound network.
    """

    name: str
    model: nn.Module
    twin: nn.Module
    x: Tensor
    y: Tensor
    truth: Truth
    codes: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A sound network with its reference data, and a source of chance."""

    network: Network
    model: nn.Module
    x: Tensor
    y: Tensor
    seed: int = 0

    @staticmethod
    def of(network: Network, seed: int = 0) -> Subject:
        """The reference data are the first `samples` of the training data."""
        task, n = network.task(), network.samples
        return Subject(network, network.model, task.x[:n], task.y[:n], seed)

    @property
    def names(self) -> list[str]:
        """Its normalisation layers, in order."""
        kind = nn.modules.batchnorm._BatchNorm
        return [name for name, m in self.model.named_modules() if isinstance(m, kind)]

    @property
    def middle(self) -> str:
        """The middle layer."""
        return self.names[len(self.names) // 2]


Edit = Callable[[Any], None]
Plan = Callable[[Subject], Iterator[State]]


def edited(subject: Subject, layers: list[str], edit: Edit) -> nn.Module:
    """A copy in which some norms were edited."""
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        for name in layers:
            edit(model.get_submodule(name))
    return model


def _reset(norm: Any) -> None:
    norm.reset_running_stats()


def _var(change: Callable[[Tensor], Tensor]) -> Edit:
    return lambda norm: norm.running_var.copy_(change(norm.running_var))


def _swap(norm: Any) -> None:
    mean = norm.running_mean.clone()
    norm.running_mean.copy_(norm.running_var)
    norm.running_var.copy_(mean.abs())


def _permuted(seed: int) -> Edit:
    def edit(norm: Any) -> None:
        generator = torch.Generator().manual_seed(seed + norm.num_features)
        order = torch.randperm(norm.num_features, generator=generator)
        norm.running_mean.copy_(norm.running_mean[order])
        norm.running_var.copy_(norm.running_var[order])

    return edit


def edits(subject: Subject) -> Iterator[State]:
    """Numbers that were changed in the buffers themselves."""
    names, middle = subject.names, subject.middle
    third = names[: max(1, len(names) // 3)]
    eps = 1e-5
    zero: Edit = lambda norm: norm.running_mean.zero_()  # noqa: E731
    for name, layers, edit, codes in (
        ("one_reset", [middle], _reset, "BN101"),
        ("first_reset", names[:1], _reset, "BN101"),
        ("last_reset", names[-1:], _reset, "BN101"),
        ("first_stage_reset", third, _reset, "BN101"),
        ("all_reset", names, _reset, "BN101"),
        ("one_var_x4", [middle], _var(lambda v: v * 4), "BN210"),
        ("one_var_div4", [middle], _var(lambda v: v / 4), "BN210"),
        ("all_var_x4", names, _var(lambda v: v * 4), "BN210"),
        ("biased_n4", names, _var(lambda v: v * 0.75), "BN210"),
        ("one_mean_zero", [middle], zero, "BN118"),
        ("all_mean_zero", names, zero, "BN118"),
        ("permuted_one", [middle], _permuted(subject.seed), "BN211"),
        ("permuted_all", names, _permuted(subject.seed), "BN211"),
        ("var_as_std", names, _var(torch.sqrt), "BN210"),
        ("var_as_square", names, _var(torch.square), "BN210"),
        ("var_as_invstd", names, _var(lambda v: (v + eps).rsqrt()), "BN210"),
        ("var_as_inv", names, _var(lambda v: 1 / (v + eps)), "BN210"),
        ("var_as_log", names, _var(torch.log), "BN103"),
        ("mean_var_swapped_mid", [middle], _swap, "BN210"),
        ("neg_mean", names, lambda norm: norm.running_mean.neg_(), "BN210"),
        ("means_moved", names, _moved, "BN210"),
    ):
        model = edited(subject, layers, edit)
        yield _faulty(subject, name, model, codes, layers if len(layers) < len(names) else [])
    pairs = _same_size(subject)
    if pairs:
        model = copy.deepcopy(subject.model)
        first, second = (model.get_submodule(name) for name in pairs)
        _exchange(first, second)
        yield _faulty(subject, "two_layers_swapped", model, "BN211", pairs)


def _moved(norm: Any) -> None:
    generator = torch.Generator().manual_seed(norm.num_features)
    bias = torch.randn(norm.num_features, generator=generator)
    norm.running_mean.add_(0.6 * bias * norm.running_var.sqrt())


def _same_size(subject: Subject) -> list[str]:
    """Two layers of one size, far apart."""
    sizes: dict[int, list[str]] = {}
    for name in subject.names:
        norm: Any = subject.model.get_submodule(name)
        sizes.setdefault(norm.num_features, []).append(name)
    most = max(sizes.values(), key=len)
    return [most[0], most[-1]] if len(most) > 1 else []


def _exchange(first: Any, second: Any) -> None:
    for buffer in ("running_mean", "running_var"):
        kept = getattr(first, buffer).clone()
        getattr(first, buffer).copy_(getattr(second, buffer))
        getattr(second, buffer).copy_(kept)


def _faulty(
    subject: Subject, name: str, model: nn.Module, codes: str, layers: list[str] | None = None,
    twin: nn.Module | None = None, truth: Truth = Truth.STATISTICS,
    options: dict[str, Any] | None = None,
) -> State:  # fmt: skip
    return State(
        name, model, twin or subject.model, subject.x, subject.y, truth,
        frozenset(codes.split()), frozenset(layers or ()), options or {},
    )  # fmt: skip


def kinds_of(y: Tensor) -> Tensor:
    """One of a few kinds for each sample, by which data may be sorted."""
    if y.is_floating_point():
        first = y.flatten(1).mean(1)
        return torch.bucketize(first, first.quantile(torch.linspace(0.125, 0.875, 7)))
    return y if y.ndim == 1 else y.flatten(1).amin(1)


def updates(subject: Subject) -> Iterator[State]:
    """Statistics that followed the wrong batches."""
    task = subject.network.task()
    x, label = task.x, kinds_of(task.y)
    order = torch.argsort(label, stable=True)
    refreshed, net = planted.refreshed, subject.model
    yield _faulty(subject, "sorted_last_pass", refreshed(net, x, order=order), "BN204")
    one = order[: min(320, int((label == label.min()).sum()))]
    one = one.repeat(11)[:320]
    yield _faulty(subject, "last10_one_class", refreshed(net, x, order=one), "BN204")
    half = torch.nonzero(label <= label.float().median())[:, 0]
    shuffled = half[torch.randperm(len(half), generator=torch.Generator().manual_seed(1))]
    shard = shuffled.repeat(20)[: 60 * 32]
    yield _faulty(subject, "ddp_shard_half_classes", refreshed(net, x, order=shard), "BN204")
    last = torch.arange(32)
    yield _faulty(subject, "outlier_batch_x100", refreshed(net, x * 100, order=last), "BN212")
    noisy = refreshed(net, x, batch_size=4, momentum=0.9, max_steps=200, seed=subject.seed)
    told: dict[str, Any] = {"momentum": 0.9, "train_batch_size": 4}
    yield _faulty(subject, "few_m.9_b4_untold", noisy, "BN201")
    yield _faulty(subject, "few_m.9_b4", noisy, "BN201 BN112 BN113", options=told)
    tf = refreshed(net, x, batch_size=16, momentum=0.99, max_steps=80, seed=subject.seed)
    coarse: dict[str, Any] = {"momentum": 0.99, "train_batch_size": 16}
    yield _faulty(subject, "tf_m.99_b16", tf, "BN201 BN112 BN113", options=coarse)
    cold = refreshed(net, x, momentum=0.01, reset=True, passes=9, max_steps=60)
    yield _faulty(subject, "underwarmed_untold", cold, "BN105")
    yield _faulty(subject, "underwarmed_m.01_60", cold, "BN105", options={"momentum": 0.01})
    others = x.flip(-1) * 1.5 + 0.7 * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(2)
    )
    left = refreshed(net, others, passes=4, max_steps=40)
    yield _faulty(subject, "train_mode_left_other", left, "BN205")


def trainings(subject: Subject) -> Iterator[State]:
    """Weights and statistics that come from different places."""
    network, net = subject.network, subject.model
    if network.real:
        later = planted.with_state(network.build(), network.state(1, epochs=1.6, lr=0.05))
        yield _faulty(subject, "stale", _buffers_of(later, net), "BN202", twin=later)
        elsewhere = planted.trained_elsewhere((len(subject.names) + 1), 1)
        soup = planted.averaged(net, elsewhere)
        yield _faulty(subject, "soup_two_seeds", soup, "BN203 BN202", twin=soup)
        return
    early = network.trained(0, epochs=1.5)
    ago = network.trained(0, epochs=4, start=(("epochs", 1.5),))
    yield _faulty(subject, "stale", _buffers_of(ago, early), "BN202", twin=ago)
    soup = planted.averaged(net, network.trained(1))
    yield _faulty(subject, "soup_two_seeds", soup, "BN203 BN202", twin=soup)
    for kind in ("swa", "ema"):
        model = network.trained(2, average=kind, constant=True, epochs=6)
        twin = planted.refreshed(model, network.task().x, passes=3)
        yield _faulty(subject, f"{kind}_no_update", model, "BN202 BN203", twin=twin)


def _buffers_of(model: nn.Module, other: nn.Module) -> nn.Module:
    kept = {name: value for name, value in other.state_dict().items() if "running" in name}
    return planted.with_state(model, model.state_dict() | kept)


def weights(subject: Subject) -> Iterator[State]:
    """Weights that were lost, or changed after training."""
    name, layer = _before(subject)
    model = copy.deepcopy(subject.model)
    module: Any = model.get_submodule(name)
    torch.manual_seed(subject.seed)
    module.reset_parameters()
    norm: Any = model.get_submodule(layer)
    norm.reset_parameters()
    yield _faulty(subject, "strict_false_block", model, "BN213 BN101", [layer], truth=Truth.WEIGHTS)
    model = copy.deepcopy(subject.model)
    pruned: Any = model.get_submodule(name)
    with torch.no_grad():
        weight = pruned.weight
        weight[weight.abs() < weight.abs().flatten().quantile(0.7)] = 0
    yield _faulty(subject, "pruned70", model, "BN202 BN203 BN207 BN217", [layer],
                  truth=Truth.WEIGHTS)  # fmt: skip


def _before(subject: Subject) -> tuple[str, str]:
    """A convolution or linear layer in the middle, and the norm that sees its output first."""
    order: list[tuple[str, bool]] = []
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
    handles = [
        module.register_forward_hook(
            lambda m, _a, _o, name=name: order.append(
                (name, isinstance(m, nn.modules.batchnorm._BatchNorm))
            )
        )
        for name, module in subject.model.named_modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        subject.model(subject.x[:2])
    for handle in handles:
        handle.remove()
    pairs = [
        (before, after)
        for (before, first), (after, second) in pairwise(order)
        if not first and second
    ]
    return pairs[len(pairs) // 2]


FAULTS: tuple[Plan, ...] = (edits, updates, trainings, weights)
