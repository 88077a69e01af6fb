"""What bncheck says of a state, held against the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn

import bncheck
from tests import planted
from tests.diagnosis.faults import FAULTS, Plan, State, Subject, Truth, edits, updates, weights
from tests.diagnosis.inputs import wrong_inputs
from tests.diagnosis.networks import Task
from tests.diagnosis.sound import as_given, sound
from tests.diagnosis.training import Network, accuracy, right_answers


class Advice(StrEnum):
    """What the fix of the first finding says about the statistics."""

    NONE = "-"
    RECALIBRATE = "recalibrate"
    CONDITION = "condition"
    LEAVE = "leave"


class Written(StrEnum):
    """What recalibrate did, and what it was worth on data prepared as in training."""

    REFUSED = "refused"
    RESTORED = "restored"
    PARTLY = "written"
    HARMFUL = "harmful"


@dataclass(frozen=True)
class Outcome:
    """One state and what was said and done."""

    network: str
    state: State
    given: float  # accuracy on the data as they are given
    code: str | None
    layer: str | None
    w2: float | None
    advice: Advice
    written: Written
    accuracy: tuple[float, float, float]  # as it is, sound, as written

    @property
    def detected(self) -> bool:
        """An error or a warning."""
        return self.code is not None

    @property
    def named(self) -> bool:
        """By its own name."""
        return self.code in self.state.codes

    @property
    def layer_right(self) -> bool:
        """Or anywhere, where the fault is everywhere."""
        return not self.state.layers or self.layer in self.state.layers

    @property
    def acceptable(self) -> bool:
        """The right name, or no name and the right layer; silence where it makes no difference."""
        if self.named or (self.code in ("BN207", "BN217") and self.layer_right):
            return True
        return not self.detected and self.harmless

    @property
    def harmless(self) -> bool:
        """Results are within a point of those of the sound network."""
        if self.state.truth is Truth.DATA:
            return self.given >= self.accuracy[1] - 0.01
        return self.accuracy[0] >= self.accuracy[1] - 0.01

    @property
    def wrong_way(self) -> bool:
        """Told to recalibrate where the data are at fault, or to leave statistics that are."""
        if self.state.truth is Truth.DATA:
            return self.advice is Advice.RECALIBRATE
        return self.state.truth is Truth.STATISTICS and self.advice is Advice.LEAVE


ALL: tuple[Plan, ...] = (sound, *FAULTS, wrong_inputs)
#: Those that train nothing but the network itself.
QUICK: tuple[Plan, ...] = (as_given, edits, updates, weights, wrong_inputs)


def states(
    network: Network, chosen: Sequence[str] = (), plans: Sequence[Plan] = ALL
) -> Iterator[State]:
    """Every fault, wrong input and sound variant; of those named only, if any are."""
    subject = Subject.of(network)
    for plan in plans:
        for state in plan(subject):
            if not chosen or any(word in state.name for word in chosen):
                yield state


def judged(network: Network, state: State, labels: bool = True) -> Outcome:
    """Inspect and recalibrate a state, with its labels or without."""
    torch.manual_seed(0)
    data = (state.x, state.y) if labels and network.labelled else state.x
    report = bncheck.inspect(state.model, data, **state.options)
    serious = [f for f in report.findings if f.severity.value != "info"]
    first = serious[0] if serious else None
    task = network.task()
    test = task.test_x, task.test_y
    before, best = accuracy(task, state.model, *test), accuracy(task, state.twin, *test)
    written, after = _recalibrated(task, state, data, before, best)
    given = accuracy(task, state.model, state.x, state.y)
    return Outcome(
        network.name, state, given, first.rule if first else None, first.layer if first else None,
        report.summary.w2,
        _advice(first.fix if first else ""), written, (before, best, after),
    )  # fmt: skip


def _advice(fix: str) -> Advice:
    if "recalibrate with force" in fix or fix.startswith("give labels"):
        return Advice.CONDITION
    if fix.startswith("run `"):
        return Advice.RECALIBRATE
    if "leave" in fix or "keep the statistics" in fix or fix.startswith("none needed"):
        return Advice.LEAVE
    return Advice.RECALIBRATE if "recalibrate" in fix.partition(";")[0] else Advice.NONE


def _recalibrated(
    task: Task, state: State, data: object, before: float, best: float
) -> tuple[Written, float]:
    try:
        report = bncheck.recalibrate(state.model, data)
    except bncheck.BncheckError:
        return Written.REFUSED, before
    if report.reason is not None:
        return Written.REFUSED, before
    tensors = state.model.state_dict() | report.state_dict()
    mended = planted.with_state(state.model, tensors)
    after = accuracy(task, mended, task.test_x, task.test_y)
    if after < before - 0.01 and _beyond_chance(task, state.model, mended):
        return Written.HARMFUL, after
    return (Written.RESTORED if after >= best - 0.015 else Written.PARTLY), after


def _beyond_chance(task: Task, before: nn.Module, after: nn.Module) -> bool:
    """More answers were lost than gained, by two standard errors (McNemar)."""
    test = task.test_x, task.test_y
    right = [right_answers(task, net, *test).flatten() for net in (before, after)]
    lost = int((right[0] & ~right[1]).sum())
    gained = int((right[1] & ~right[0]).sum())
    return lost - gained > 2 * math.sqrt(lost + gained)
