"""Is the fold the same function? It is proven where it happens, and then the whole is run once.

A fold alters a few calls: regions.py. Each region, of the original and of the fold, is computed in
float64 on the same values: those that the original has there on real or invented inputs, and random
ones, since a unit that is dead on the inputs tried hides wrong weights. So no depth amplifies what
rounding does, and what lies outside need not be computed but by the program's own runtime.

The whole is compared as written. How far rounding may move its outputs is measured where they
differ: as the response of the original to steps of one unit in the last place of the values that
regions read and make, and of the numbers that they have stored: docs/folding.md, "The proof".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from bncheck.core.timing import timed
from bncheck.core.words import shortened
from bncheck.folding.difference import ENOUGH_VALUES, INVENTED, Difference, Output, is_float
from bncheck.folding.result import Parity, RegionsParity, epsilon_for, tolerance_for
from bncheck.runtime.refused import RefusedError

Inputs = TypeVar("Inputs")
#: Values on the way by their names in the original; floating ones are arrays.
Values: TypeAlias = Mapping[str, Any]

Move: TypeAlias = Callable[[Output], Output]
#: The kind of inputs, and what makes them.
_Made: TypeAlias = tuple[int, Callable[[], Inputs]]

#: Of two sizes, one differs from any that is written into a program. Regions see the first.
_BATCHES = (2, 1)
#: How many more inputs are tried where the usual ones were all refused.
_PATIENCE = 8
#: A response to rounding is random. Of a thousand channels some would seem to have none.
_DRAWS = 4
_SEED = 20262


class UnevaluatedError(RuntimeError):
    """A region that makes these values cannot be computed in float64 on the original's own."""

    def __init__(self, exits: Sequence[str], error: Exception) -> None:
        super().__init__(shortened(first_line(error), 160))
        self.exits = exits


def first_line(error: Exception) -> str:
    """What a runtime says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class Seen:
    """A run of the original as written: its floating outputs, and what regions read."""

    outputs: Sequence[Output]
    values: Values


class SideBySide(Protocol[Inputs]):
    """A program and its fold, which can be run on the same inputs.

    A region is named by its place in `regions`, values by their names in the original.
    """

    failures: tuple[type[Exception], ...]

    @property
    def tolerance(self) -> float:
        """The relative error of the whole that rounding explains, in the narrowest dtype between
        what a fold alters and the outputs."""

    @property
    def has_free_batch(self) -> bool:
        """Whether the first axis of an input may have any size."""

    @property
    def examples(self) -> Sequence[Inputs]:
        """Inputs that came with the program, for one that takes no fresh ones."""

    @property
    def regions(self) -> Sequence[Sequence[str]]:
        """The values that each region makes."""

    def fresh(self, batch: int) -> Inputs:
        """Random inputs, other ones each time; `batch` is the size of free first axes."""

    def batch_of(self, inputs: Inputs) -> int:
        """How many samples these inputs hold."""

    def original(self, inputs: Inputs) -> Seen:
        """The original as written. Raises RefusedError."""

    def moved(self, inputs: Inputs) -> Iterator[Sequence[Output]]:
        """The outputs of the original with the values in and around all regions, and the stored
        numbers that a fold changes, off by about one unit in the last place: other ones each time.
        """

    def folded(self, inputs: Inputs) -> Sequence[Output]:
        """The outputs of the fold as written."""

    def written(self, region: int) -> Collection[str]:
        """The dtypes of the numbers that a fold writes there: in float64 only these are rounded."""

    def entries(self, region: int) -> Sequence[str]:
        """The values that a region reads."""

    def enough(self, region: int, values: Values) -> Values:
        """The values with no more of what a region reads than shows what it does."""

    def exits(
        self, region: int, values: Values, *, of_fold: bool, move: Move | None = None
    ) -> Mapping[str, Output]:
        """What a region makes of such values, in float64; `move` is done to its stored numbers."""

    def maker_of(self, name: str | None) -> str | None:
        """What people call the part of the original that makes a value."""


@timed("proving the fold")
def prove(
    sides: SideBySide[Inputs],
    tolerance: float | None = None,
    extra: Sequence[Inputs] = (),
    *,
    whole_too: bool = True,
) -> Parity:
    """Compare on fresh inputs, and on those in `extra`. Raises RefusedError where all are.

    Without `whole_too` only regions are compared, for a fold that is still to become a file, which
    is then compared as a whole.
    """
    limit = sides.tolerance if tolerance is None else tolerance
    whole, regions = _Whole(sides, limit, whole_too), _Regions(sides, tolerance)
    first = _BATCHES[: None if whole_too else 1] if sides.has_free_batch else ()
    batches = itertools.chain(first, itertools.repeat(ENOUGH_VALUES // 4))
    fresh: Iterator[_Made[Inputs]] = ((INVENTED, partial(sides.fresh, batch)) for batch in batches)
    usual = [*itertools.islice(fresh, max(1, len(first))), *_given(extra)]
    refused: RefusedError | None = None
    spare = (each for each in _given(sides.examples) if not whole.has_any)
    more = itertools.chain(spare, itertools.islice(fresh, ENOUGH_VALUES))
    for tried, (kind, make) in enumerate(itertools.chain(usual, more)):
        if tried >= len(usual):
            whole.judge()
            if not whole.seen.needs_more and not regions.want_more:
                break
        if tried >= len(usual) + _PATIENCE and not whole.seen.batches:
            break
        try:
            inputs = make()
            seen = sides.original(inputs)
        except RefusedError as error:  # left out where other inputs are accepted
            refused = error
            continue
        whole.hold(inputs, seen.outputs, kind)
        if regions.want_more or kind != INVENTED:
            regions.add(seen, kind)
    whole.judge()
    if refused is not None and not whole.seen.batches:
        raise refused
    whole.seen.refuse_nothing()
    parity, proven = whole.seen.parity(), regions.parity()
    worst = parity.max_relative_error if whole_too else proven.max_relative_error
    excess = max(parity.excess, regions.excess)
    found = replace(parity, max_relative_error=worst, excess=excess, regions=proven)
    return found if found.holds else replace(found, parts_at=sides.maker_of(regions.first_bad()))


def _given(given: Sequence[Inputs]) -> Iterator[_Made[Inputs]]:
    """Each a kind of its own, since a user's inputs may be of any sizes."""
    return ((kind, lambda inputs=inputs: inputs) for kind, inputs in enumerate(given))  # type: ignore[misc]


class _Whole(Generic[Inputs]):
    """The outputs as written. Proven regions leave rounding alone to explain a difference."""

    def __init__(self, sides: SideBySide[Inputs], limit: float, compared: bool) -> None:
        self._sides, self._compared, proven = sides, compared, bool(sides.regions)
        self.seen = Difference(limit, np.inf if proven else 100.0, pooled=proven)
        self._waiting: list[tuple[Inputs, Sequence[Output], int]] = []

    @property
    def has_any(self) -> bool:
        """Whether the original took some inputs."""
        return bool(self.seen.batches or self._waiting)

    def hold(self, inputs: Inputs, outputs: Sequence[Output], kind: int) -> None:
        """Keep what the original makes of these until the fold is run: a runtime at a time."""
        self._waiting.append((inputs, outputs, kind))

    def judge(self) -> None:
        """Run the fold on all that waits."""
        while self._waiting:
            self._add(*self._waiting.pop(0))

    def _add(self, inputs: Inputs, outputs: Sequence[Output], kind: int) -> None:
        """Take in what both make of these; how rounding moves it is measured if need be.

        A response seen at other inputs is not enough: it may be a thousand times as large here.
        """
        batch = self._sides.batch_of(inputs)
        if not self._compared:
            self.seen.batches.append(batch)
            return
        folded, moved = self._sides.folded(inputs), outputs
        draws = itertools.islice(self._sides.moved(inputs), _DRAWS)
        while True:
            found = deepcopy(self.seen)
            found.add(batch, outputs, folded, moved, kind)
            drawn = None if found.parity().holds else next(draws, None)
            if drawn is None:
                break
            moved = list(map(_farther, outputs, moved, drawn))
        self.seen = found


class _Regions(Generic[Inputs]):
    """Each region twice: on the original's own values, and on random ones."""

    def __init__(self, sides: SideBySide[Inputs], limit: float | None) -> None:
        self._sides = sides
        self._generator = np.random.default_rng(_SEED)
        written = [sides.written(place) for place in range(len(sides.regions))]
        limits = [tolerance_for(dtypes) if limit is None else limit for dtypes in written]
        self._epsilons = [epsilon_for(dtypes) for dtypes in written]
        self._found = [[Difference(limit), Difference(limit)] for limit in limits]
        self._names: dict[int, list[str]] = {}

    @property
    def _differences(self) -> list[Difference]:
        return [difference for pair in self._found for difference in pair]

    @property
    def want_more(self) -> bool:
        """Whether nothing was seen, or other inputs may tell more than those seen."""
        seen = any(difference.batches for difference in self._differences)
        return not seen or any(difference.needs_more for difference in self._differences)

    @property
    def excess(self) -> float:
        """The largest error of any channel in parts of what it is allowed."""
        return max((d.parity().excess for d in self._differences), default=0.0)

    def add(self, seen: Seen, kind: int) -> None:
        for place in range(len(self._found)):
            own, other = self._found[place]
            values = self._sides.enough(place, seen.values)
            try:
                self._compare(place, own, values, seen.values, kind)
            except self._sides.failures as error:
                raise UnevaluatedError(self._sides.regions[place], error) from None
            try:
                self._compare(place, other, self._random(place, values), {}, kind)
            except self._sides.failures:
                if own.batches:
                    continue  # values that the calls do not take
                raise

    def _compare(
        self, place: int, difference: Difference, values: Values, written: Values, kind: int
    ) -> None:
        """Hold one against the other; what rounding costs is measured where they are apart.

        It is seen in the values as written, or in the response to steps of all that is read.
        """
        sides = self._sides
        before, after = (sides.exits(place, values, of_fold=which) for which in (False, True))
        names = self._names.setdefault(place, [name for name in before if name in after])
        alike = {
            n: np.where(np.isfinite(v), v, before[n])
            for n, v in written.items()
            if n in before and v.shape == before[n].shape
        }
        moved = {**before, **alike}
        for left in reversed(range(_DRAWS + 1)):
            trial = Difference(difference.tolerance)
            wide, new, old = _in_order(names, before, after, moved)
            trial.add(0, wide, new, old, kind)
            if not left or trial.parity().holds:
                difference.join(trial)
                break
            stepped = {**values, **self._stepped(place, values)}
            step = partial(self._step, place)
            drawn = sides.exits(place, stepped, of_fold=False, move=step)
            moved = {n: _farther(before[n], moved[n], drawn[n]) for n in names}

    def _step(self, place: int, value: Output) -> Output:
        return value * steps(value, self._epsilons[place], self._generator)

    def _random(self, place: int, values: Values) -> Values:
        """Signed values of the same size for what a region reads."""
        found = dict(values)
        for name in self._sides.entries(place):
            if is_float(value := values.get(name)):
                wide = np.asarray(value, dtype=np.float64)
                finite = wide[np.isfinite(wide)]
                size = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
                found[name] = self._generator.standard_normal(wide.shape) * (size or 1.0)
        return found

    def _stepped(self, place: int, values: Values) -> Values:
        """The values that a region reads, off by one unit in the last place."""
        read = {name: values.get(name) for name in self._sides.entries(place)}
        return {name: self._step(place, value) for name, value in read.items() if is_float(value)}

    def parity(self) -> RegionsParity:
        """The figures."""
        worst = [d.parity().max_relative_error for d in self._differences]
        return RegionsParity(len(self._found), max(worst, default=0.0))

    def first_bad(self) -> str | None:
        """The first value that is another one."""
        for place, pair in enumerate(self._found):
            for difference in pair:
                bad = difference.first_bad()
                if bad is not None:
                    return self._names[place][bad]
        return None


def _in_order(names: Sequence[str], *sides: Values) -> list[list[Output]]:
    return [[side[name] for name in names] for side in sides]


def _farther(original: Output, one: Output, other: Output) -> Output:
    """Of each number the one that is farther from the original's, and still a number."""
    nearer = (abs(other - original) <= abs(one - original)) | ~np.isfinite(other)
    return np.where(nearer, one, other)


def steps(value: Output, epsilon: float, generator: np.random.Generator) -> Output:
    """Factors that move each number by about one unit in its last place, up or down."""
    return 1 + epsilon * (generator.integers(0, 2, np.shape(value)) * 2.0 - 1)
