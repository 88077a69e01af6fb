"""One model of a training at its recorded steps: what it holds, and what its batch was like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.thresholds import W2_WARNING
from bncheck.layers.norm_layer import NormLayer
from bncheck.reading.kinds import NormKind
from bncheck.reading.record_snapshot import BATCH_MOMENTS
from bncheck.reading.training_state import Seen, TrainingState
from bncheck.recording.batch import Batch, Glance, from_update
from bncheck.recording.live import Live
from bncheck.recording.meter import BatchMeter
from bncheck.recording.modules import Watched
from bncheck.recording.observation import Observation
from bncheck.recording.ranks import Ranks, of_layer
from bncheck.recording.seeing import furthest, pooled, seen
from bncheck.recording.sentinel import Sentinel
from bncheck.recording.state import copied, eps_of, momentum_of, norm_layers, weights_digest
from bncheck.series.snapshot import Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bncheck.measuring.norms import TrackingNorm
    from bncheck.reading.tensors import Array

    Floats = NDArray[np.float64]

#: eps of an output that nothing normalises, as a share of its mean variance: `series.measuring`.
_RELATIVE_EPS: Final = 1e-5
#: Updates after which images are told apart again, and momenta that tell a batch in single
#: precision: below, a running average hardly moves.
_APART_AGAIN: Final = 20
_LEAST_MOMENTUM: Final = 0.01


@dataclass(frozen=True, slots=True)
class Before:
    """A layer before a step."""

    mean: Floats
    var: Floats
    counter: float | None


@dataclass
class Observed:
    """A model with its hooks, its sentinel and what was found in it so far."""

    watched: Watched
    meter: BatchMeter
    live: Live = field(default_factory=Live)
    before: dict[str, Before] = field(default_factory=dict)
    now: dict[str, Before] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    told_apart: dict[str, Batch] = field(default_factory=dict)
    last_apart: int | None = None
    calm: bool = False

    def __post_init__(self) -> None:
        """Watch for what is not finite, too."""
        self.sentinel = Sentinel(self.watched)

    def arm(self, step: int, recorded: bool, alone: bool) -> None:
        """Measure the step that comes after `step`; `recorded` if nothing has happened since
        `observe`, `alone` if no other process tells of its batch."""
        self.before = self.now if recorded and self.now else self._statistics()
        self.meter.attach(brief=alone and self._may_be_brief(step))

    def disarm(self) -> None:
        """Leave the model alone again."""
        self.meter.detach()

    def snapshot(self, state: TrainingState, path: Path) -> Snapshot:
        """The model as it is."""
        return Observation(self.watched, state, path, copied(self.watched.tensors()), {}).snapshot

    def not_finite(self) -> list[str]:
        """The layers that hold NaN or infinity, in their order."""
        layers = norm_layers(self.watched, copied(self.watched.tensors()))
        return [layer.name for layer in layers if not _is_finite(layer)]

    def observe(
        self, state: TrainingState, path: Path, ranks: Ranks, complain: Callable[[str], None]
    ) -> Observation | None:
        """What there is to record; None in a process that only tells another."""
        batches = self._batches(state.step or 0)
        self.largest = {name: batch.largest for name, batch in batches.items()}
        everywhere = self._everywhere(batches, state.step or 0, ranks, complain)
        if not everywhere:
            return None
        arrays = copied(self.watched.tensors())
        told = {
            norm.name: one
            for norm in self.watched.norms
            if (one := self._seen(norm, everywhere)) is not None
        }
        self.calm = all((one.w2 or 0.0) < W2_WARNING for one in told.values())
        state = replace(state, weights=weights_digest(self.watched.model), seen=told)
        self.before, self.now = {}, {norm.name: _held(norm, arrays) for norm in self.watched.norms}
        tensors = {**arrays, **self._outputs(batches)}
        return Observation(self.watched, state, path, tensors, self._modules(batches))

    def _may_be_brief(self, step: int) -> bool:
        """Whether a look and the running averages tell enough of the next batch.

        Not where something moves: then it is asked whether single images make it.
        """
        return (
            self.last_apart is not None
            and step - self.last_apart < _APART_AGAIN
            and self.calm
            and not self.watched.outputs
            and all(_tells(norm) for norm in self.watched.norms)
        )

    def _everywhere(
        self, batches: dict[str, Batch], step: int, ranks: Ranks, complain: Callable[[str], None]
    ) -> list[dict[str, Batch]]:
        widths = {norm.name: norm.channels for norm in self.watched.norms}
        try:
            return ranks.gathered(f"{self.watched.name}/{step}", batches, widths)
        except Exception as error:  # of whatever kind the store's are
            complain(f"another process told nothing of its batch ({error})")
            ranks.part()
            return [] if ranks.rank else [batches]

    def _statistics(self) -> dict[str, Before]:
        arrays = copied(self.watched.tensors(affine=False))
        return {norm.name: _held(norm, arrays) for norm in self.watched.norms}

    def _batches(self, step: int) -> dict[str, Batch]:
        """By the hooks; where they only looked, or there were none, by what the layer made of its
        statistics.

        Another model that is not called may be an average, whose statistics move all the same.
        """
        found, glances = self.meter.take()
        if len(found) >= len(self.watched.norms):
            self.told_apart, self.last_apart = found, step
        missing = [norm for norm in self.watched.norms if norm.name not in found]
        trains = self.watched.compiled or not self.watched.name or glances
        if missing and trains and self.before and self.watched.training:
            after = self._statistics()
            for norm in missing:
                batch = _updated(
                    norm, self.before.get(norm.name), after[norm.name], glances.get(norm.name),
                    self.told_apart.get(norm.name),
                )  # fmt: skip
                if batch is not None:
                    found[norm.name] = batch
        return found

    def _seen(self, norm: TrackingNorm, everywhere: list[dict[str, Batch]]) -> Seen | None:
        batches, before = of_layer(everywhere, norm.name), self.before.get(norm.name)
        if not batches or before is None:
            return None
        shared = norm.kind is NormKind.SYNC
        batch = pooled([one for _, one in batches], shared)
        eps = eps_of(norm.module)
        one = seen(batch, before.mean, before.var, eps, momentum_of(norm.module))
        one = replace(one, training=bool(norm.module.training))
        if len(batches) < 2 or shared:
            return one
        apart, place = furthest([one for _, one in batches], eps)
        return replace(one, apart=apart, rank=batches[place][0])

    def _outputs(self, batches: Mapping[str, Batch]) -> dict[str, Array]:
        mean, var = BATCH_MOMENTS
        found: dict[str, Array] = {}
        for name, _ in self.watched.outputs:
            if name in batches:
                dot = f"{name}." if name else ""
                found[dot + mean] = batches[name].mean.astype(np.float32)
                found[dot + var] = batches[name].var.astype(np.float32)
        return found

    def _modules(self, batches: Mapping[str, Batch]) -> dict[str, dict[str, object]]:
        """What a layer's tensors do not tell."""
        told: dict[str, dict[str, object]] = {
            norm.name: {
                "class": type(norm.module).__name__,
                "eps": eps_of(norm.module),
                "momentum": momentum_of(norm.module),
            }
            for norm in self.watched.norms
        }
        for name, module in self.watched.outputs:
            if name in batches:
                eps = _RELATIVE_EPS * float(batches[name].var.mean())
                told[name] = {"class": type(module).__name__, "eps": eps}
        return told


def _is_finite(layer: NormLayer) -> bool:
    held = (layer.mean, layer.var, layer.weight, layer.bias)
    return all(a is None or bool(np.isfinite(a.astype(np.float64)).all()) for a in held)


def _held(norm: TrackingNorm, arrays: Mapping[str, Array]) -> Before:
    dot = f"{norm.name}." if norm.name else ""
    mean, var = (
        arrays[dot + own].reshape(-1).astype(np.float64) for own in (norm.mean_name, norm.var_name)
    )
    counter = arrays.get(f"{dot}num_batches_tracked")
    return Before(mean, var, None if counter is None else float(counter.reshape(-1)[0]))


def _tells(norm: TrackingNorm) -> bool:
    """Whether a layer's update tells its batch: counted, and in single precision at least."""
    momentum, module = momentum_of(norm.module), norm.module
    return (
        momentum is not None
        and _LEAST_MOMENTUM <= momentum <= 1
        and getattr(module, "num_batches_tracked", None) is not None
        and getattr(module, norm.mean_name).dtype.itemsize >= 4
    )


def _updated(
    norm: TrackingNorm, before: Before | None, after: Before, glance: Glance | None,
    like: Batch | None,
) -> Batch | None:  # fmt: skip
    """The batch that a layer's own update tells; None where it made none, or others than those
    that were looked at."""
    if before is None or before.counter is None or after.counter is None:
        return None
    calls = after.counter - before.counter
    if calls < 1 or not norm.module.training or (glance is not None and glance.calls != calls):
        return None
    momentum = momentum_of(norm.module)
    share = before.counter / after.counter if momentum is None else (1 - momentum) ** calls
    pairs = (before.mean, before.var), (after.mean, after.var)
    return from_update(*pairs, share, glance, like)
