"""How far two programs are apart, channel by channel, and how far they may be.

Each output channel is measured against its own largest value over the samples of a kind, and may be
off by the tolerance, or by what the original's own rounding costs in that same channel. A tolerance
on absolute errors would mean nothing: equally good folds range from 7e-6 to 3. Inputs that a user
gives are a kind of their own: invented ones that a BatchNorm takes for far outliers make outputs a
hundred times as large, beside which any error on real data looks small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from bncheck.core.errors import BncheckError
from bncheck.folding.result import EXCUSE, Parity
from bncheck.graph.dataflow import Floats
from bncheck.layers.facts import median

Output: TypeAlias = NDArray[Any]

#: A channel that is small beside the others is measured against this part of the largest value. It
#: is there for channels that are zero but for rounding; one that merely happens to be near zero in
#: a few samples is met by more samples. ResNet-20 trained on CIFAR-10: over 2 samples, the largest
#: value of a logit can be 0.0009 of the largest of all, and the (right) fold's error 1.5e-4 of it;
#: 3 % of such comparisons exceed 1e-5. Over 5 samples it is 0.04 and 6e-6, over 64 0.21 and 1.4e-6.
FLOOR = 1e-3
#: Numbers that are compared at a time.
_AT_ONCE = 1 << 18
#: From this many values on, the largest tells how large a channel is.
ENOUGH_VALUES = 64
#: The kind of the inputs that are made up; there can be more of them at any time.
INVENTED = -1


@dataclass
class _Channels:
    """One output's largest value and largest differences, by channel, on one kind of inputs."""

    size: Floats
    fold: Floats
    own: Floats
    values: int
    kind: int

    @property
    def few(self) -> bool:
        """Whether these are too few values to tell how large a channel is."""
        return self.values < ENOUGH_VALUES

    def measure(self, pooled: bool) -> Floats:
        """What the errors of each channel are measured against."""
        # There are no more of the inputs that a user gave.
        pooled = pooled or (self.few and self.kind != INVENTED)
        size = _at_least_usual(self.size) if pooled else self.size
        largest: Floats = np.maximum(size, max(FLOOR * size.max(initial=0.0), _TINY))
        return largest

    def joined(self, other: _Channels) -> _Channels:
        """The larger of both; as one channel where axis 1 has another size with every input."""
        mine, its = (self.size, self.fold, self.own), (other.size, other.fold, other.own)
        if self.size.shape == other.size.shape:
            size, fold, own = (np.maximum(a, b) for a, b in zip(mine, its, strict=True))
        else:
            pairs = zip(mine, its, strict=True)
            size, fold, own = (np.concatenate(pair).max(keepdims=True) for pair in pairs)
        return _Channels(size, fold, own, self.values + other.values, self.kind)


@dataclass
class Difference:
    """What has been seen of a fold, the original and the original in float64."""

    tolerance: float
    #: What rounding excuses is at most so many tolerances: beyond, the comparison says nothing.
    largest_excuse: float = 100.0
    #: Whether a channel counts as at least as large, and as easily moved by rounding, as the median
    #: of its output. Both are random: of a thousand logits, some have by chance nearly nothing of
    #: it. Only for a comparison that has a stricter one beside it.
    pooled: bool = False
    seen: dict[tuple[int, int], _Channels] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    # Of each output: in how many samples the top class is the same, and of how many.
    agreement: dict[int, tuple[int, int]] = field(default_factory=dict)
    misshapen: bool = False
    places: int = 0

    def add(
        self,
        batch: int,
        reference: Sequence[Output],
        folded: Sequence[Output],
        original: Sequence[Output],
        kind: int = INVENTED,
    ) -> None:
        """Take in the outputs for one batch: in float64, of the fold, of the original.

        `kind` tells inputs apart whose outputs may be of other sizes.
        """
        self.batches.append(batch)
        self.places = len(reference)
        for place, (wide, new, old) in enumerate(zip(reference, folded, original, strict=True)):
            if wide.shape != new.shape or wide.shape != old.shape:
                self.misshapen = True
            else:
                self._join(place, _channels(wide, new, old, kind))
                if (
                    wide.ndim == 2 and wide.shape[1] > 1 and len(wide)
                ):  # looks like scores of classes
                    same = int((wide.argmax(1) == new.argmax(1)).sum())
                    self._agree(place, same, len(wide))

    def join(self, other: Difference) -> None:
        """Take in what another has seen."""
        self.batches += other.batches
        for place, (same, samples) in other.agreement.items():
            self._agree(place, same, samples)
        self.misshapen |= other.misshapen
        self.places = other.places
        for (place, _), channels in other.seen.items():
            self._join(place, channels)

    def _agree(self, place: int, same: int, samples: int) -> None:
        before = self.agreement.get(place, (0, 0))
        self.agreement[place] = before[0] + same, before[1] + samples

    def _join(self, place: int, channels: _Channels) -> None:
        key = place, channels.kind
        known = self.seen.get(key)
        self.seen[key] = channels if known is None else known.joined(channels)

    @property
    def needs_more(self) -> bool:
        """Whether it looks bad, and that may be for lack of samples."""
        few = [c for c in self.seen.values() if c.few and c.kind == INVENTED]
        return not self.misshapen and any(self._excess(channels) > 1 for channels in few)

    def refuse_nothing(self) -> None:
        """Raise where all outputs were empty: such a comparison would say that all is well."""
        if self.seen and not any(channels.values for channels in self.seen.values()):
            raise BncheckError(
                "cannot be compared: its outputs hold no numbers",
                "give inputs of at least one sample",
            )

    def first_bad(self) -> int | None:
        """The first of the outputs that is further off than it may be."""
        return min((i for (i, _), c in self.seen.items() if self._excess(c) > 1), default=None)

    def _excess(self, channels: _Channels) -> float:
        """The largest error of a channel in parts of what that channel is allowed."""
        measure = channels.measure(self.pooled)
        own = _at_least_usual(channels.own) if self.pooled else channels.own
        own = np.where(np.isfinite(own), own, 0.0)  # that rounding overflows excuses nothing
        excuse = np.minimum(EXCUSE * own / measure, self.largest_excuse * self.tolerance)
        allowed = np.maximum(np.maximum(excuse, self.tolerance), _TINY)
        return float((channels.fold / measure / allowed).max(initial=0.0))

    def errors(self) -> list[float]:
        """The largest relative error of each output."""
        found = [float("inf") if self.misshapen else 0.0] * self.places
        for (place, _), channels in self.seen.items():
            found[place] = max(found[place], self._relative(channels, channels.fold))
        return found

    def _relative(self, channels: _Channels, errors: Floats) -> float:
        return float((errors / channels.measure(self.pooled)).max(initial=0.0))

    def parity(self, parts_at: str | None = None) -> Parity:
        """The figures."""
        worst = own = excess = 0.0
        for channels in self.seen.values():
            worst = max(worst, self._relative(channels, channels.fold))
            own = max(own, self._relative(channels, channels.own))
            excess = max(excess, self._excess(channels))
        if self.misshapen:
            worst = excess = float("inf")
        share = min((same / of for same, of in self.agreement.values()), default=None)
        return Parity(worst, own, self.tolerance, tuple(self.batches), share, parts_at, excess)


_TINY = float(np.finfo(np.float64).tiny)


def _channels(wide: Output, new: Output, old: Output, kind: int) -> _Channels:
    fold, own = gaps(wide, new, old), gaps(wide, old, old)
    return _Channels(_largest(wide), fold, own, _per_channel(wide), kind)


def _at_least_usual(numbers: Floats) -> Floats:
    """Each channel's number, or the median of all where that is more."""
    return np.maximum(numbers, median(numbers)) if numbers.size else numbers


def is_float(item: object) -> TypeGuard[Output]:
    """An array of float64 to bfloat16, which NumPy does not count among its floats."""
    return isinstance(item, np.ndarray) and (
        item.dtype.kind == "f" or item.dtype.name == "bfloat16"
    )


def relative_error(reference: Output, given: Output, *, pooled: bool = False) -> float:
    """The largest difference in any channel, relative to that channel's largest value.

    With `pooled` to the median of the channels' where that is more: see `Difference`.
    """
    if reference.shape != given.shape:
        return float("inf")
    if not reference.size:
        return 0.0
    size = _at_least_usual(_largest(reference)) if pooled else _largest(reference)
    floor = max(FLOOR * float(size.max()), _TINY)
    return float((gaps(reference, given) / np.maximum(size, floor)).max())


def gaps(reference: Output, given: Output, original: Output | None = None) -> Floats:
    """The largest difference in each channel; infinite where only one side is a number.

    Where the original overflows its own dtype, so may the other: that is not a difference.
    """
    if reference is given:
        return np.zeros(len(_channels_first(reference)))
    sides = (reference, given) if original is None else (reference, given, original)
    found = [_gaps(*rows) for rows in _by_channel(*sides)]
    return np.concatenate(found) if found else np.zeros(0)


def _gaps(first: Floats, second: Floats, original: Floats | None = None) -> Floats:
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    if original is not None:
        same |= ~np.isfinite(original) & ~np.isfinite(second)
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(first - second)).max(1, initial=0.0)
    return np.where(np.isfinite(difference), difference, np.inf)


def _largest(array: Output) -> Floats:
    found = [
        np.where(np.isfinite(rows), np.abs(rows), 0.0).max(1, initial=0.0)
        for (rows,) in _by_channel(array)
    ]
    return np.concatenate(found) if found else np.zeros(0)


def _per_channel(array: Output) -> int:
    return array.size if array.ndim < 2 else array.size // max(1, array.shape[1])


def _by_channel(*arrays: Output) -> Iterator[tuple[Floats, ...]]:
    """Some channels at a time in float64, a row each: whole outputs may be large."""
    views = [_channels_first(array) for array in arrays]
    channels = len(views[0])
    step = max(1, _AT_ONCE * channels // max(1, views[0].size))
    for first in range(0, channels, step):
        rows = (view[first : first + step].astype(np.float64) for view in views)
        yield tuple(each.reshape(len(each), views[0].size // channels) for each in rows)


def _channels_first(array: Output) -> Output:
    return array.reshape(1, -1) if array.ndim < 2 else np.moveaxis(array, 1, 0)
