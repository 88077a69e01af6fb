"""Trainings with one fault, the code that each must give, and the steps at which it may come."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.recording.trials.healthy import RATES, constant, cosine, one_cycle
from tests.recording.trials.nets import FIRST, NETS
from tests.recording.trials.training import Act, Trial

#: The step of the fault.
AT = 243


@dataclass(frozen=True)
class Fault:
    """`late` is how many recorded steps may pass after the fault until it is said."""

    code: str
    plant: Callable[[Trial], Act]
    late: int = 2
    at: int = AT


def norms(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def from_then_on(change: Callable[[Tensor], Tensor]) -> Callable[[Trial], Act]:
    return lambda trial: lambda own, step, x: change(x) if step >= AT else None


def spike(trial: Trial) -> Act:
    """The rate 100 times as high for 10 steps."""

    def act(own: Trial, step: int, x: Tensor) -> None:
        if AT <= step < AT + 10:
            for group in own.optimizer.param_groups:
                group["lr"] *= 100

    return act


def frozen_half(trial: Trial) -> Act:
    """From the fault on, the first half of the parameters; train() stays."""

    def act(own: Trial, step: int, x: Tensor) -> None:
        if step == AT:
            held = list(own.model.parameters())
            for parameter in held[: len(held) // 2]:
                parameter.requires_grad_(False)
                parameter.grad = None

    return act


def momentum_0(trial: Trial) -> Act:
    def act(own: Trial, step: int, x: Tensor) -> None:
        if step == AT:
            for norm in norms(own.model):
                norm.momentum = 0.0

    return act


def average(buffers: bool) -> Callable[[Trial], Act]:
    """An average of the weights is loaded; its buffers are those of the start, or the model's."""

    def plant(trial: Trial) -> Act:
        def act(own: Trial, step: int, x: Tensor) -> None:
            held = own.memory.setdefault("ema", copy.deepcopy(own.model))
            for mine, theirs in zip(held.parameters(), own.model.parameters(), strict=True):
                mine.data.lerp_(theirs.data, 0.03)
            if step == AT:
                own.model.load_state_dict(held.state_dict())

        return act

    return plant


def resumed(keep: str) -> Callable[[Trial], Act]:
    """A new process: model, optimizer and recorder; `keep` says what was lost."""

    def plant(trial: Trial) -> Act:
        def act(own: Trial, step: int, x: Tensor) -> None:
            if step != AT:
                return
            old = own.model
            own.recording.close()
            own.model = NETS[own.net]()
            weights = dict(old.state_dict())
            if keep == "weights":
                weights = {k: v for k, v in weights.items()
                           if "running" not in k and "tracked" not in k}  # fmt: skip
            own.model.load_state_dict(weights, strict=False)
            if keep == "first layer lost":
                norms(own.model)[0].reset_running_stats()
            own.model.train()
            own.optimizer = own.made_optimizer()
            own.recording = own.recorder(own.folder)

        return act

    return plant


def nan_input(trial: Trial) -> Act:
    def act(own: Trial, step: int, x: Tensor) -> Tensor | None:
        if step != AT:
            return None
        x = x.clone()
        x[0, 0, 3, 3] = float("nan")
        return x

    return act


def inf_weight(trial: Trial) -> Act:
    def act(own: Trial, step: int, x: Tensor) -> None:
        if step == AT:
            next(iter(own.model.parameters())).data.view(-1)[0] = float("inf")

    return act


def small_momentum(trial: Trial) -> Act:
    def act(own: Trial, step: int, x: Tensor) -> None:
        for norm in norms(own.model):
            norm.momentum = 0.001

    return act


def validation(trial: Trial) -> Act:
    """Every 81 steps, other images go through the model, which nobody has put into eval()."""

    def act(own: Trial, step: int, x: Tensor) -> None:
        if step >= AT and step % 81 == 0:
            with torch.no_grad():
                for _ in range(8):
                    own.model(2 * own.drawn(step)[0] + 1.5)

    return act


def reset_midway(trial: Trial) -> Act:
    def act(own: Trial, step: int, x: Tensor) -> None:
        if step == AT:
            for norm in norms(own.model):
                norm.reset_running_stats()

    return act


FAULTS = {
    "rate spike": Fault("BN304", spike),
    "images x 3 + 2": Fault("BN304", from_then_on(lambda x: 3 * x + 2)),
    "images inverted": Fault("BN304", from_then_on(lambda x: -x)),
    "images in 0 .. 255": Fault("BN304", from_then_on(lambda x: (x + 0.8) * 96)),
    "noise for images": Fault("BN304", from_then_on(lambda x: torch.randn_like(x) * 2)),
    "frozen half": Fault("BN301", frozen_half),
    "momentum 0": Fault("BN302", momentum_0),
    "EMA with first buffers": Fault("BN305", average(False)),
    "resumed, buffers lost": Fault("BN305", resumed("weights"), 1),
    "resumed, one layer lost": Fault("BN305", resumed("first layer lost"), 1),
    "reset in the middle": Fault("BN305", reset_midway),
    "NaN in one pixel": Fault("BN102", nan_input, 0),
    "infinity in a weight": Fault("BN102", inf_weight, 0),
    "small momentum": Fault("BN306", small_momentum, 99, 1),
    "validation in train()": Fault("BN308", validation, 1),
}


def faulty() -> dict[str, tuple[Trial, Fault]]:
    """Every fault in four networks, with the rest in turn."""
    found = {}
    names, nets, schedules = list(RATES), FIRST, (constant, cosine, one_cycle)
    everies, batches = (10, 25, 1, 50), (64, 32, 128)
    for place, (word, fault) in enumerate(FAULTS.items()):
        for number in range(4):
            turn = 4 * place + number
            net, optimizer = nets[(place + 2 * number) % len(nets)], names[turn % len(names)]
            trial = Trial(
                net, optimizer, RATES[optimizer], batches[turn % 3], everies[turn % 4],
                schedule=schedules[turn % 3], seed=100 + turn,
            )  # fmt: skip
            trial.act = fault.plant(trial)
            name = f"{word}: {net} {optimizer} b{trial.batch} every {trial.every}"
            found[f"{name} {schedules[turn % 3].__name__}"] = (trial, fault)
    return found
