"""Sound networks that were trained or are looked at in unusual ways: no error, no warning."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tests import planted
from tests.diagnosis.faults import State, Subject, Truth, edited, kinds_of
from tests.diagnosis.networks import Kind


def sound(subject: Subject) -> Iterator[State]:
    """Other data, other trainings, statistics that are rounded or frozen on purpose."""
    yield from as_given(subject)
    if not subject.network.real:
        yield from _other_trainings(subject)


def as_given(subject: Subject) -> Iterator[State]:
    """The sound network itself, with other data or rounded statistics."""
    yield from _other_data(subject)
    yield from _other_numbers(subject)


def _sound(subject: Subject, name: str, model: nn.Module | None = None, **changes: Any) -> State:
    model = model or subject.model
    x, y = changes.pop("data", (subject.x, subject.y))
    return State(f"h_{name}", model, model, x, y, Truth.SOUND, options=changes)


def _other_data(subject: Subject) -> Iterator[State]:
    task, x, y = subject.network.task(), subject.x, subject.y
    yield _sound(subject, "as_trained")
    test = task.test_x[: len(x)], task.test_y[: len(x)]
    yield _sound(subject, "test", data=test)
    for number in (64, 128):
        yield _sound(subject, str(number), data=(x[:number], y[:number]))
    noise = 0.05 * float(x.std()) * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    yield _sound(subject, "noise", data=(x + noise, y))
    if subject.network.task().kind is Kind.LATENT:
        yield _sound(subject, "truncated", data=(0.7 * x, y))
    label = kinds_of(y)
    rare = torch.arange(len(label)) % 6 != 0
    kept = torch.nonzero((label == label.max()) | ~rare)[:, 0]
    if len(kept) >= 64:
        yield _sound(subject, "imbalanced", data=(x[kept], y[kept]))


def _other_numbers(subject: Subject) -> Iterator[State]:
    def half(norm: Any) -> None:
        for buffer in (norm.running_mean, norm.running_var):
            buffer.copy_(buffer.half().float())

    yield _sound(subject, "fp16_rounded", edited(subject, subject.names, half))


def _other_trainings(subject: Subject) -> Iterator[State]:
    network, start = subject.network, ()
    for seed in (1, 2):
        yield _sound(subject, f"seed{seed}", network.trained(seed))
    yield _sound(subject, "momentum_none", network.trained(0, momentum=None))
    if not network.task().y.is_floating_point() and network.task().loss is F.cross_entropy:
        yield _sound(subject, "label_smoothing", network.trained(0, smoothing=0.1))
    yield _sound(subject, "mixup", network.trained(0, mixup=True))
    frozen = network.trained(0, start=start, frozen=True, epochs=2, lr=network.lr / 10)
    yield _sound(subject, "frozen_same_domain", frozen)
    moved = network.trained(0, start=start, frozen=True, epochs=2, shift=0.2, lr=network.lr / 10)
    data = subject.x + 0.2, subject.y
    yield _sound(subject, "frozen_finetune", moved, data=data)
    yield _sound(subject, "running_training", network.trained(0, constant=True))
    middle = subject.middle
    meant = network.trained(0, plain=middle)
    yield _sound(subject, "at_0_1_on_purpose", meant)
    average = network.trained(2, average="swa", constant=True, epochs=6)
    measured = copy.deepcopy(planted.refreshed(average, network.task().x, passes=3))
    yield _sound(subject, "swa_update_bn", measured)
