"""What the rules about a measurement are given: the measurement, and how to say what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from bncheck.core.findings import Evidence, Finding, Severity
from bncheck.core.thresholds import W2_STEM, Thresholds
from bncheck.core.words import percent
from bncheck.layers.facts import at_initial_statistics, never_written
from bncheck.measuring.deviation import Deviation
from bncheck.measuring.measurement import MeasuredLayer, Measurement
from bncheck.measuring.results import Direction
from bncheck.rules.data.class_mixture import Mixture, class_mixture
from bncheck.rules.data.implied import Implied, implied
from bncheck.rules.data.objection import Objection, objection, unproven
from bncheck.rules.rule import AnyRule

#: A layer deviates by itself from this W2 on, and from this share of the largest.
_OFF: Final = 0.06
_OFF_SHARE: Final = 0.2
#: What a story about all layers must explain of each: half, of those of a tenth of the weight.
_HEAVY: Final = 0.1
EACH: Final = 0.5
#: Means are looked at in layers that deviate by this W2.
_MOVED: Final = 0.04
#: kappa / B of momentum 0.9 and batches of 2, with room for scatter.
_BEYOND_NOISE: Final = 0.6
#: Both are estimates, each with the scatter of a layer's independent channels.
_APART: Final = 1.5
#: Layers agree with what they see below this W2.
_AGREES: Final = 0.10
#: An accuracy from which nothing can be wrong with the data that matters.
_WORKS: Final = 0.95
#: Standard errors by which measured statistics must serve better where W2 is small.
_BEYOND_CHANCE: Final = 2.5
_A_POINT: Final = 0.01
#: The layers of an input alone: this share of the worst of the others, this many times their
#: median. In a real ResNet-44 on clean images one other layer comes as close as 0.93 (it follows).
_ALONE: Final = 0.8
_MEDIAN: Final = 2.2
_FEW_LAYERS: Final = 3
#: Real networks on uncropped images stand at 0.20 to 0.22; this leaves them some room.
_LEAST_FIRST: Final = 0.15
#: Inputs on the usual scale: mean in standard deviations, and the standard deviation.
_CENTRED: Final = 0.4
_SCALES: Final = (0.5, 2.0)


@dataclass(frozen=True)
class MeasuredNetwork:
    """A measurement that deserves an explanation.

    `recalibrate` is the command (or call) that would measure the statistics anew. The properties
    are over the layers that saw data, in the order of execution.
    """

    measurement: Measurement
    recalibrate: str

    @property
    def thresholds(self) -> Thresholds:
        """What a W2 is judged by."""
        return self.measurement.thresholds

    @cached_property
    def layers(self) -> list[MeasuredLayer]:
        """The layers that both cascades reached."""
        return [m for m in self.measurement.layers if m.eval is not None and m.batch is not None]

    @cached_property
    def batch(self) -> list[Deviation]:
        """Their deviations in the batch cascade: each layer's own fault."""
        return [m.batch for m in self.layers if m.batch is not None]

    @cached_property
    def w2(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """W2 in the batch cascade."""
        return np.array([deviation.w2 for deviation in self.batch])

    @property
    def stem(self) -> MeasuredLayer:
        """The first layer."""
        return self.layers[0]

    @cached_property
    def readers(self) -> dict[int, list[MeasuredLayer]]:
        """By input, the layers that see it before anything was normalised."""
        read = {entry.layer: entry.inputs for entry in self.measurement.entries}
        found: dict[int, list[MeasuredLayer]] = {}
        for m in self.layers:
            for place in read.get(m.layer.name, ()):
                found.setdefault(place, []).append(m)
        return found or {0: [self.stem]}

    @cached_property
    def entries(self) -> list[MeasuredLayer]:
        """The layers that see an input before anything was normalised: all that tell of data."""
        names = {m.layer.name for found in self.readers.values() for m in found}
        return [m for m in self.layers if m.layer.name in names]

    def is_entry(self, measured: MeasuredLayer) -> bool:
        """Whether nothing was normalised before the layer."""
        return any(measured is m for m in self.entries)

    def reads_itself(self, measured: MeasuredLayer) -> bool:
        """Whether the layer is fed an input as it is: nothing stands before it."""
        name = measured.layer.name
        return any(entry.layer == name and entry.itself for entry in self.measurement.entries)

    def at_input(self, place: int) -> float:
        """W2 of the layers that read an input; of several the least, as data would move all."""
        return min(own_w2(m) for m in self.readers[place])

    def beside(self, place: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """W2 of all layers but those that read an input; 0 where there is none."""
        names = {m.layer.name for m in self.readers[place]}
        others = [own_w2(m) for m in self.layers if m.layer.name not in names]
        return np.array(others or [0.0])

    @property
    def culprit(self) -> MeasuredLayer:
        """The layer whose own statistics are worst."""
        return self.layers[int(np.argmax(self.w2))]

    @property
    def severity(self) -> Severity | None:
        """By the largest W2 of the eval cascade, what deployment sees."""
        return self.thresholds.severity(self.measurement.w2)

    @property
    def recalibrate_anyway(self) -> str:
        """What to do where it is written only if the user insists; no command to be copied."""
        called = self.recalibrate.endswith(")")
        return f"recalibrate with {'force=True' if called else '--force'}"

    @cached_property
    def objection(self) -> Objection | None:
        """What speaks against measured statistics."""
        return objection(self.measurement)

    @cached_property
    def unproven(self) -> Objection | None:
        """What is missing where the numbers do not show a fault by themselves."""
        return unproven(self.measurement)

    @property
    def labelled(self) -> bool:
        """Whether results were compared."""
        return self.direction is not Direction.UNKNOWN

    @property
    def shown_by_results(self) -> bool:
        """Whether results alone show that the statistics are at fault, whatever happened to them.

        Data of another kind (blurred, cut, shifted) are served better by their own statistics, too,
        but not as well as those of training. Where what reads an input deviates, it may be that.
        """
        served = self.mostly_restored and self.measured_work
        return served and not self.as_data_may and self.objection is None

    @property
    def measured_work(self) -> bool:
        """Whether measured statistics serve these data so well that little can be gained.

        An accuracy within two standard errors of that counts as well.
        """
        c = self.measurement.comparison
        if c is None or not c.usual:
            return False
        chance = 2 * math.sqrt(_WORKS * (1 - _WORKS) / c.samples) if c.metric == "accuracy" else 0.0
        return (c.after or 0.0) >= _WORKS - chance

    @cached_property
    def off(self) -> dict[str, float]:
        """The layers that deviate by themselves, with what they weigh in the whole deviation."""
        least = max(_OFF, _OFF_SHARE * float(self.w2.max()))
        return {
            m.layer.name: min(float(w2) ** 2, 1.0)
            for m, w2 in zip(self.layers, self.w2, strict=True)
            if w2 >= least
        }

    def is_off(self, measured: MeasuredLayer) -> bool:
        """Whether the layer deviates by itself."""
        return measured.layer.name in self.off

    @property
    def heavy(self) -> list[str]:
        """The layers that weigh at least a tenth of the heaviest."""
        least = _HEAVY * max(self.off.values(), default=0.0)
        return [name for name, weight in self.off.items() if weight >= least]

    def whole_share(self, shares: Mapping[str, float]) -> float:
        """The share of the whole deviation that layers' shares amount to; 0 where one is left out.

        Of a layer that weighs a tenth of the heaviest, half must be explained.
        """
        if any(shares.get(name, 0.0) < EACH for name in self.heavy):
            return 0.0
        parts = [weight * shares.get(name, 0.0) for name, weight in self.off.items()]
        return sum(parts) / max(sum(self.off.values()), 1e-12)

    @cached_property
    def implied(self) -> list[Implied]:
        """What each layer would imply of the running average, were it noise."""
        return [implied(m) for m in self.layers]

    @cached_property
    def of_other_weights(self) -> bool:
        """Whether means behind the first layer are off as batches cannot move them.

        By clearly more than the variances, in units of noise, or by more than any noise.
        """
        behind = [
            found.by_means > min(_APART * found.by_variances, _BEYOND_NOISE)
            for m, found in zip(self.layers, self.implied, strict=True)
            if not self.is_entry(m) and own_w2(m) >= _MOVED
        ]
        return bool(behind) and float(np.mean(behind)) > 0.5

    @cached_property
    def mixture(self) -> Mixture | None:
        """The mixture of classes that the first layer's statistics, or the worst one's, are of.

        Before the first layer nothing is normalised; behind it the class means are those of sorted
        batches only where the layers before are nearly right, as they are before the worst one.
        """
        found = [class_mixture(m) for m in (self.stem, self.culprit) if self.is_off(m)]
        return max(
            (mixture for mixture in found if mixture is not None),
            key=lambda mixture: mixture.explained,
            default=None,
        )

    @property
    def data_fit(self) -> bool:
        """Whether the layers that see the data directly agree with them."""
        return max(self.at_input(place) for place in self.readers) < W2_STEM

    def served_downstream(self, measured: MeasuredLayer) -> bool:
        """Whether all layers after this one agree with what they see *with* its statistics.

        A layer at 0 and 1 that the network was trained with feeds later layers what they were
        trained on: in the eval cascade they agree. Statistics that were lost after training do not.
        """
        place = next((n for n, m in enumerate(self.layers) if m is measured), None)
        if place is None:
            return False
        after = [m.eval.w2 for m in self.layers[place + 1 :] if m.eval is not None]
        agrees = bool(after) and max(after) < _AGREES
        return agrees and (self.works or self.direction is Direction.UNKNOWN)

    @property
    def stem_alone(self) -> bool:
        """Whether layers that read an input deviate, and the others hardly beside them."""
        own = {m.layer.name for m in self.entries}
        alone = bool(self.off) and self.off.keys() <= own and len(own) < len(self.layers)
        return alone and any(
            all(self.is_off(m) for m in readers) for readers in self.readers.values()
        )

    @property
    def stem_most(self) -> bool:
        """Whether the layers of an input deviate most, as they see how it was prepared."""
        return any(self.most_at(place) for place in self.readers)

    def most_at(self, place: int) -> bool:
        """Whether the layers that read this input do."""
        first, rest = self.at_input(place), self.beside(place)
        if len(self.w2) < _FEW_LAYERS:
            return False
        return (
            first >= _LEAST_FIRST
            and first > _ALONE * float(rest.max())
            and first > _MEDIAN * float(np.median(rest))
        )

    @property
    def as_data_may(self) -> bool:
        """Whether it is where, and as, wrongly prepared data would show: the numbers cannot tell.

        What the layers normalise there is gone behind them, so measured statistics restore the
        results, whether these statistics were wrong or the data are.
        """
        return self.stem_most or self.stem_alone

    @property
    def mostly_restored(self) -> bool:
        """Whether measured statistics take away at least half of the errors: data would not."""
        c = self.measurement.comparison
        if c is None or c.direction is not Direction.BETTER:
            return False
        return c.restored or not c.usual

    @property
    def costs_results(self) -> bool:
        """Whether the running statistics cost results: beyond chance, and a point at least."""
        c = self.measurement.comparison
        if c is None or c.gain is None or c.gain < _BEYOND_CHANCE:
            return False
        return not c.usual or (c.after or 0.0) - (c.before or 0.0) >= _A_POINT

    @property
    def both_poor(self) -> bool:
        """Whether neither statistics serve: something else is at fault, too."""
        c = self.measurement.comparison
        return c is not None and c.poor

    @property
    def works(self) -> bool:
        """Whether the running statistics serve these data so well that little can be gained."""
        c = self.measurement.comparison
        good = c is not None and c.metric == "accuracy" and (c.before or 0.0) >= _WORKS
        return good and self.direction is not Direction.BETTER

    @property
    def no_better(self) -> bool:
        """Whether measured statistics are no better, and by a standard error worse."""
        c = self.measurement.comparison
        if c is None or c.gain is None or c.leaning is Direction.BETTER:
            return False
        return c.gain <= -1

    @property
    def usual_scale(self) -> bool:
        """Whether the inputs have about mean 0 and standard deviation 1, as most trainings do."""
        if self.measurement.reruns is None:
            return False
        mean, sd = self.measurement.reruns.input_scale()
        return abs(mean) < _CENTRED * max(sd, 1e-12) and _SCALES[0] < sd < _SCALES[1]

    @property
    def direction(self) -> Direction:
        """What measured statistics do to the results."""
        return self.measurement.direction

    @property
    def trained_like_this(self) -> bool:
        """Whether no layer is off in deployment but such as the later ones were trained with."""
        off = [m for m in self.layers if m.eval and self.thresholds.severity(m.eval.w2)]
        return bool(off) and all(
            at_initial_statistics(m.layer) and self.served_downstream(m) for m in off
        )

    @property
    def untouched(self) -> list[MeasuredLayer]:
        """Layers that are still at mean 0 and variance 1, and should not be."""
        return [
            m
            for m in self.layers
            if (at_initial_statistics(m.layer) or never_written(m.layer))
            and m.batch is not None
            and self.thresholds.severity(m.batch.w2)
            and not self.served_downstream(m)
        ]

    def results(self) -> str:
        """Accuracy 0.561 with the running statistics, 0.994 with measured ones."""
        c = self.measurement.comparison
        if c is None:
            return ""
        if c.metric is not None and c.before is not None and c.after is not None:
            return (
                f"{c.metric} {c.before:.3f} with the running statistics, {c.after:.3f} with "
                f"measured ones{self._of_batches()}{self._of_samples()}"
            )
        if c.flips is not None:
            return f"{percent(c.flips)} of predictions change with measured statistics"
        if c.output_change is not None:
            return f"outputs change by {percent(c.output_change, 0)} (RMS) with measured statistics"
        return ""

    def _of_samples(self) -> str:
        c = self.measurement.comparison
        if c is None or c.samples >= self.measurement.samples:
            return ""
        return f" (of the first {c.samples:,} samples)"

    def _of_batches(self) -> str:
        """The third column, where it says something else than the second."""
        c = self.measurement.comparison
        if c is None or c.batch is None or not c.batch_serves_far_better:
            return ""
        return f", {c.batch:.3f} with those of each batch of {c.batch_size}"

    def with_results(self, message: str) -> str:
        """The message and the results, where there are any."""
        results = self.results()
        return f"{message}; {results}" if results else message

    def finding(
        self,
        rule: AnyRule,
        severity: Severity,
        measured: MeasuredLayer | None,
        message: str,
        fix: str,
        **evidence: Evidence,
    ) -> Finding:
        """A finding with the measured figures as its evidence."""
        figures: dict[str, Evidence] = {"w2": self.measurement.w2}
        if measured is not None and measured.eval is not None and measured.batch is not None:
            figures = {"w2": measured.eval.w2, "w2_batch": measured.batch.w2}
        comparison = self.measurement.comparison
        if comparison is not None:
            figures |= {"before": comparison.before, "after": comparison.after}
            figures |= {"metric": comparison.metric, "flips": comparison.flips}
        layer = None if measured is None else measured.layer.name
        return rule.finding(severity, layer, message, fix, None, **{**figures, **evidence})


def own_w2(measured: MeasuredLayer) -> float:
    """W2 in the batch cascade: the layer's own fault."""
    return measured.batch.w2 if measured.batch is not None else 0.0


def names(layers: Sequence[MeasuredLayer], shown: int = 4) -> str:
    """bn1, bn2, bn3 and 4 more."""
    listed = ", ".join(m.layer.name for m in layers[:shown])
    more = len(layers) - shown
    return f"{listed} and {more} more" if more > 0 else listed
