"""One model of a training at its recorded steps: what it holds, and what its batch was like."""

from __future__ import annotations

import math
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
from bncheck.recording.batch import Batch
from bncheck.recording.beginning import Beginning
from bncheck.recording.live import Live
from bncheck.recording.meter import BatchMeter
from bncheck.recording.modules import Watched
from bncheck.recording.observation import Observation
from bncheck.recording.ranks import Ranks, of_layer
from bncheck.recording.seeing import Held, furthest, pooled, seen
from bncheck.recording.sentinel import Sentinel
from bncheck.recording.spread import Spread
from bncheck.recording.state import Weights, copied, eps_of, momentum_of, norm_layers
from bncheck.recording.updates import from_updates
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
_APART_AGAIN: Final = 50
_LEAST_MOMENTUM: Final = 0.01


@dataclass
class Observed:
    """A model with its hooks, its sentinel and what was found in it so far."""

    watched: Watched
    meter: BatchMeter
    live: Live = field(init=False)
    before: Held | None = None
    now: Held | None = None
    largest: dict[str, float] = field(default_factory=dict)
    told_apart: dict[str, Batch] = field(default_factory=dict)
    last_apart: int | None = None
    calm: bool = False
    beginning: Beginning = field(default_factory=Beginning)

    def __post_init__(self) -> None:
        """Watch for what is not finite, too."""
        self.live = Live(self.watched.name)
        self.sentinel = Sentinel(self.watched)
        self.weights = Weights(self.watched.model)
        self.spread = Spread(np.zeros(sum(norm.channels for norm in self.watched.norms)))

    def arm(self, step: int, recorded: bool, alone: bool) -> None:
        """Measure the step that comes after `step`; `recorded` if nothing has happened since
        `observe`, `alone` if no other process tells of its batch."""
        self.before = self.now if recorded and self.now is not None else self._statistics()
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
        self,
        state: TrainingState,
        path: Path,
        ranks: Ranks,
        complain: Callable[[str], None],
        on_not_finite: Callable[[], None],
    ) -> Observation | None:
        """What there is to record; None in a process that only tells another.

        `on_not_finite` is called while the batch is still at hand.
        """
        arrays = copied(self.watched.tensors())
        now = self._held(arrays)
        if now is not None and not now.is_finite:
            on_not_finite()
        batches = self._batches(now, state.step or 0)
        self.largest = {name: batch.largest for name, batch in batches.items()}
        everywhere = self._everywhere(batches, state.step or 0, ranks, complain)
        if not everywhere:
            return None
        told = self._seen(everywhere)
        self.calm = self._is_calm(told)
        weights, bad = self.weights.digest()
        state = replace(state, weights=weights, bad_weight=bad, seen=told)
        if now is not None:
            self.beginning.note(now)
        self.before, self.now = None, now
        tensors = {**arrays, **self._outputs(batches)}
        return Observation(self.watched, state, path, tensors, self._modules(batches))

    def _is_calm(self, told: Mapping[str, Seen]) -> bool:
        """Whether no layer moves, apart from averages that still approach their batches."""
        if self.before is None:
            return True
        warm = zip(self.before.norms, self.before.warm, strict=True)
        moves = {name for name, one in told.items() if (one.w2 or 0.0) >= W2_WARNING}
        return not any(is_warm and norm.name in moves for norm, is_warm in warm)

    def _may_be_brief(self, step: int) -> bool:
        """Whether a look and the running averages tell enough of the next batch.

        Not where something moves that is judged: it is asked whether single images make it.
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
        try:
            return ranks.gathered(f"{self.watched.name}/{step}", batches, self.watched.widths)
        except Exception as error:  # of whatever kind the store's are
            complain(f"another process told nothing of its batch ({error})")
            ranks.part()
            return [] if ranks.rank else [batches]

    def _statistics(self) -> Held | None:
        return self._held(copied(self.watched.tensors(affine=False)))

    def _held(self, arrays: Mapping[str, Array]) -> Held | None:
        return Held.of(self.watched.norms, arrays) if self.watched.norms else None

    def _batches(self, now: Held | None, step: int) -> dict[str, Batch]:
        """By the hooks; where they only looked, or there were none, by what the layer made of its
        statistics.

        Another model that is not called may be an average, whose statistics move all the same.
        """
        found, glances = self.meter.take()
        if len(found) >= len(self.watched.norms):
            self.told_apart, self.last_apart = found, step
        missing = [norm.name for norm in self.watched.norms if norm.name not in found]
        trains = self.watched.compiled or not self.watched.name or glances
        if missing and trains and self.watched.training and now is not None and self.before:
            found |= from_updates(self.before, now, missing, glances, self.told_apart)
        return found

    def _seen(self, everywhere: list[dict[str, Batch]]) -> dict[str, Seen]:
        if self.before is None:
            return {}
        by_layer = {norm.name: of_layer(everywhere, norm.name) for norm in self.watched.norms}
        shared = {n.name for n in self.watched.norms if n.kind is NormKind.SYNC}
        batches = {
            name: pooled([one for _, one in found], name in shared)
            for name, found in by_layer.items()
            if found
        }
        usual = self.spread.noise * self.before.scale
        told = seen(batches, self.before, self.spread, self.beginning.without(self.before))
        for norm, own in zip(self.watched.norms, self.before.places, strict=True):
            found = by_layer[norm.name]
            if len(found) > 1 and norm.name not in shared:
                square, noise, place = furthest(
                    [one for _, one in found], eps_of(norm.module), usual[own]
                )
                told[norm.name] = replace(
                    told[norm.name], apart=math.sqrt(max(0.0, square - noise)), apart_noise=noise,
                    rank=found[place][0] if len(found) > 2 else None,
                )  # fmt: skip
        return told

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


def _tells(norm: TrackingNorm) -> bool:
    """Whether a layer's update tells its batch: counted, and in single precision at least."""
    momentum, module = momentum_of(norm.module), norm.module
    return (
        momentum is not None
        and _LEAST_MOMENTUM <= momentum <= 1
        and getattr(module, "num_batches_tracked", None) is not None
        and getattr(module, norm.mean_name).dtype.itemsize >= 4
    )
