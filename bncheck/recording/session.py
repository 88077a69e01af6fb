"""One start of a training under a recorder: its steps, and what is written and found at them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.reading.training_state import TrainingState
from bncheck.recording.clock import Clock, number_of, rate_of
from bncheck.recording.folder import RecordFolder
from bncheck.recording.holding import HeldError
from bncheck.recording.meter import BatchMeter
from bncheck.recording.modules import Watched
from bncheck.recording.not_finite import found_not_finite
from bncheck.recording.observation import Observation
from bncheck.recording.observed import Observed
from bncheck.recording.ranks import Ranks, is_helper
from bncheck.recording.resuming import resumed
from bncheck.recording.scalars import Scalars, scalars_of
from bncheck.rules.data.bn209_single_value import single_value
from bncheck.rules.static.bn102_non_finite import non_finite

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: Layers that a sentence names.
_MOST_NAMED: Final = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """When to record and how much: see `Recorder`."""

    every: int
    every_epoch: bool
    keep: int | None
    every_layer: bool


class Session:
    """What a `Recorder` does, raising whatever goes wrong: the recorder decides what becomes of it.

    What it finds, logs and complains of is asked for after each call.
    """

    def __init__(
        self, models: Mapping[str, Any], path: Path, plan: Plan, optimizer: Any = None
    ) -> None:
        self._plan, self._optimizer, self._path = plan, optimizer, path
        self._clock = Clock()
        self._findings: list[Finding] = []
        self._problems: list[str] = []
        self._scalars: list[tuple[Scalars, Mapping[str, Array], int]] = []
        self._ranks: Ranks | None = None
        self._observed = {
            name: self._watch(Watched.of(name, model, plan.every_layer))
            for name, model in models.items()
        }
        self._folder = None if is_helper() else self._open()
        if any(observed.watched.sharded for observed in self._observed.values()):
            self._problems.append("weight and bias of layers that are sharded (FSDP)")
        self._armed, self._began, self._last = False, False, -1
        self.logs = False
        self._arm()

    def findings(self) -> Iterator[Finding]:
        """What was found since the last time."""
        while self._findings:
            yield self._findings.pop(0)

    def problems(self) -> Iterator[str]:
        """What could not be done since the last time."""
        while self._problems:
            yield self._problems.pop(0)

    def scalars(self) -> Iterator[tuple[Scalars, Mapping[str, Array], int]]:
        """What there is to log since the last time: scalars, arrays and the step."""
        while self._scalars:
            yield self._scalars.pop(0)

    def step(self, loss: Any, lr: float | None, epoch: int | None, step: int | None) -> None:
        """An update was made."""
        if self._began and step is not None and step == self._clock.step:
            return
        begins = None not in (epoch, self._clock.epoch) and epoch != self._clock.epoch
        if not self._began:
            self._begin(step)
            step = self._clock.step
        before = self._clock.step
        number = before + 1 if step is None else step
        rate = number_of(lr) if lr is not None else rate_of(self._optimizer)
        self._clock.tick(number, epoch, loss, rate)
        recorded = self._armed or self._crossed(before)
        if recorded:
            self._record()
        else:
            self._look()
        if self._due(number + max(1, number - before), begins):
            self._arm(recorded)
        elif recorded:
            self.disarm()

    def close(self) -> None:
        """Record the last step, if it is not."""
        if self._began and self._last != self._clock.step:
            self._record()
        self.disarm()
        if self._folder is not None:
            self._folder.close()

    def disarm(self) -> None:
        """Take all hooks off."""
        self._armed = False
        for observed in self._observed.values():
            observed.disarm()

    def single_value(self, layer: str | None) -> None:
        """A layer got one value for each channel."""
        finding = single_value.finding(
            Severity.ERROR,
            layer,
            "got one value per channel in a batch, so there is no variance to normalise by",
            "drop the incomplete last batch (drop_last=True), use larger batches, or GroupNorm",
        )
        self._found(self._observed[""].live.say(finding, self._clock.step + 1), "")

    def _open(self) -> RecordFolder | None:
        """The folder; None where another process writes into it, which is no reason to stop."""
        try:
            return RecordFolder.open(self._path, self._plan.keep)
        except HeldError as error:
            self._problems.append(str(error))
            return None

    def _watch(self, watched: Watched) -> Observed:
        def failed(error: Exception) -> None:
            self._problems.append(f"a batch could not be measured ({error})")

        return Observed(watched, BatchMeter(watched, self.single_value, failed))

    def _look_again(self) -> None:
        """Layers may have been replaced since the last recorded step."""
        for name, observed in self._observed.items():
            if not observed.watched.replaced:
                continue
            try:
                watched = observed.watched.again(self._plan.every_layer)
            except BncheckError as error:
                self._problems.append(str(error))
                continue
            others = watched.differing(observed.watched)
            if others:
                self._problems.append(
                    f"what {', '.join(others[:_MOST_NAMED])} did until step {self._clock.step:,}: "
                    "replaced, added or taken away since the recorder looked at the model"
                )
            observed.disarm()
            self._observed[name] = self._watch(watched)
            self._observed[name].live = observed.live.of_layers(watched.widths)

    def _due(self, number: int, begins: bool) -> bool:
        """Whether a step is to be recorded, as far as it is known before."""
        return begins if self._plan.every_epoch else number % self._plan.every == 0

    def _crossed(self, before: int) -> bool:
        """Whether steps that were left out took the step that was due."""
        every = self._plan.every
        return not self._plan.every_epoch and self._clock.step // every > before // every

    def _arm(self, recorded: bool = False) -> None:
        self._armed = True
        alone = self._ranks is not None and self._ranks.number == 1
        for observed in self._observed.values():
            observed.arm(self._clock.step, recorded, alone)

    def _begin(self, step: int | None) -> None:
        """At the first step: does the training go on from what the record holds?"""
        self._began = True
        self._ranks = Ranks(str(self._path))
        if self._ranks.rank:
            self._folder = None
        number = 1 if step is None else step
        goes_on = False
        if self._folder is not None:
            record = self._folder.before()
            if record is not None and record.entries:
                now = self._state_now(number)
                found = resumed(record, now, step)
                if found is not None:
                    goes_on, number = True, found.step
                    rates = [e.lr for e in record.entries if e.lr is not None]
                    self._clock.resume(rates)
                    self._observed[""].live.resume(found.snapshot)
            self._write(lambda folder: folder.begin(goes_on, **_about(self._ranks)))
        self._clock.step = number

    def _state_now(self, step: int) -> Any:
        observed = self._observed[""]
        return observed.snapshot(TrainingState(step, run=self._run), self._path)

    @property
    def _run(self) -> int:
        return 0 if self._folder is None else self._folder.run

    def _look(self) -> None:
        """Is every number finite? An accelerator is asked when a snapshot is taken."""
        for name, observed in self._observed.items():
            step = observed.sentinel.look(self._clock.step)
            if step is not None:
                self._not_finite(name, observed, step)

    def _not_finite(self, name: str, observed: Observed, step: int) -> None:
        layers = observed.live.unsaid(non_finite.code, observed.not_finite())
        if not layers:
            return
        finding = found_not_finite(layers, step, observed, self._clock)
        self._found(observed.live.say(finding, step), name)
        observed.live.take_as_said(non_finite.code, layers, step)

    def _record(self) -> None:
        clock, self._last = self._clock, self._clock.step
        self._armed = False
        assert self._ranks is not None
        self._look_again()
        for name, observed in self._observed.items():
            late = observed.sentinel.first()
            if late is not None:
                self._not_finite(name, observed, late)
        state = TrainingState(
            clock.step, clock.epoch, clock.rate, clock.peak, clock.look(), self._run,
            bad_since=clock.bad_since,
        )  # fmt: skip
        found = self._observations(state, self._ranks)
        clock.recorded()
        if "" in found:
            if self.logs:
                self._scalars.append((*scalars_of(found, self._observed), clock.step))
            self._keep(state, found)
            for name, one in found.items():
                live = self._observed[name].live
                self._found(live.add(one), name)

    def _observations(self, state: TrainingState, ranks: Ranks) -> dict[str, Observation]:
        """What there is to record of each series."""
        found = {}
        for name, observed in self._observed.items():
            one = observed.observe(
                state, self._path, ranks, self._problems.append,
                partial(self._not_finite, name, observed, self._clock.step),
            )  # fmt: skip
            if one is not None:
                found[name] = one
        return found

    def _keep(self, state: TrainingState, found: Mapping[str, Observation]) -> None:
        line = {
            "step": state.step, "epoch": state.epoch, "lr": state.lr, "loss": state.loss,
            "time": round(time.time(), 3), "counter": found[""].counter,
        }  # fmt: skip
        files = {name: (one.tensors, one.metadata) for name, one in found.items()}
        self._write(lambda folder: folder.add(files, line))

    def _found(self, findings: Iterator[Finding], series: str) -> None:
        for finding in findings:
            self._findings.append(finding)
            step = int(str(finding.evidence["step"]))
            self._write(lambda folder, f=finding, s=step: folder.find(f, s, series))

    def _write(self, act: Any) -> None:
        """Write, and stop writing for good where it cannot be done."""
        if self._folder is None:
            return
        try:
            act(self._folder)
        except BncheckError as error:
            self._folder = None
            self._problems.append(str(error))


def _about(ranks: Ranks) -> dict[str, object]:
    import torch

    return {
        "bncheck": __version__, "torch": str(torch.__version__), "processes": ranks.number,
        "time": round(time.time(), 3),
    }  # fmt: skip
