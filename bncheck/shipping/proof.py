"""Is it the same function? Every way to run one program against another computed in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.memory import give_back
from bncheck.core.timing import timed
from bncheck.folding.difference import ENOUGH_VALUES, INVENTED, Difference, relative_error
from bncheck.folding.proof import steps
from bncheck.folding.result import Parity, epsilon_for
from bncheck.shipping.sides import (
    BATCHES,
    Array,
    CannotRun,
    Run,
    See,
    Side,
    free_axes,
    fresh,
    is_float,
)
from bncheck.shipping.trail import Step, Trail, entry

_SEED = 20261
#: Other runs are drawn where a channel happens to be near zero, as in folding/program/parity.py.
_MORE = 4
_ON_THE_WAY = 10.0
FLOAT64, AS_WRITTEN = "float64", "as written"
#: What stands in where no runtime has the kernels.
_REFERENCE = "reference"
#: The kind of the user's inputs, which are judged by the sizes of their own outputs.
_GIVEN = 0
#: Two programs with the same numbers, in float64: a network that makes 1e-3 of the rounding of
#: float32 makes 1e-12 of that of float64.
_SAME = 1e-9


@dataclass(frozen=True)
class LevelParity:
    """What one way of running showed; `parity` is None where it could not run, `refused` says why.

    `outputs` are the largest relative errors by output.
    """

    level: str
    parity: Parity | None
    outputs: Mapping[str, float] = field(default_factory=dict)
    refused: str | None = None
    reference: str = FLOAT64

    def to_dict(self) -> dict[str, object]:
        """As plain data; figures that were not measured are null."""
        figures: dict[str, object] = dict.fromkeys(
            ("max_relative_error", "original_error", "tolerance", "reference", "batches",
             "argmax_agreement", "regions")
        )  # fmt: skip
        if self.parity is not None:
            figures = {**self.parity.to_dict(), "reference": self.reference}
        named = {"outputs": dict(self.outputs), "refused": self.refused}
        return {"level": self.level, **figures, **named}


@dataclass(frozen=True)
class Proof:
    """All ways, and the `steps` of the two from value to value, in float64.

    `reference` says what they are held against: the original in float64 or, where nothing here can
    compute that, as it is written.
    """

    levels: tuple[LevelParity, ...]
    tolerance: float
    reference: str = FLOAT64
    steps: tuple[Step, ...] = ()

    @property
    def parts_at(self) -> str | None:
        """The first value, by name, at which the two part."""
        return None if self.holds else entry(self.steps)

    @property
    def measured(self) -> list[Parity]:
        """The figures of those that ran."""
        return [level.parity for level in self.levels if level.parity is not None]

    @property
    def holds(self) -> bool:
        """Whether something ran, and everything that ran agrees."""
        return bool(self.measured) and all(parity.holds for parity in self.measured)

    @property
    def worst(self) -> float:
        """The largest relative error of all."""
        return max((parity.max_relative_error for parity in self.measured), default=float("nan"))


@timed("comparing")
def prove(
    reference: Side,
    other: Side,
    tolerance: float | None = None,
    data: Sequence[Array] = (),
    source: Side | None = None,
) -> Proof:
    """Run both on fresh inputs at several batch sizes, and on the samples in `data`.

    The reference in float64 is the judge; in its own dtype it shows what rounding costs. Where
    no runtime has the kernels for `other`, its own float64 evaluation stands in. Where nothing can
    compute the reference in float64, its runtime's results are the judge, and what it makes of
    inputs that are off by one unit in the last place shows the cost of rounding. `source` is what
    `other` was written from, itself proven to be `reference` where they differ: if it is the same
    as `other` in float64 and no tolerance is given, all that rounding costs is allowed. Raises
    BncheckError where the two cannot be compared.
    """
    limit = max(reference.tolerance, other.tolerance) if tolerance is None else tolerance
    _check_ports(reference, other)
    trial = _Trial(reference, other, limit)
    inputs = _inputs(reference, other)
    usual = [next(inputs) for _ in range(len(BATCHES) if trial.free else 1)]
    trial.add(usual, data)
    for _ in range(_MORE):
        if not trial.needs_more:
            break
        trial.add([next(inputs)])
    # A limit that was given is the limit.
    if source is not None and tolerance is None and not trial.holds:
        trial.allow_rounding_of(source)
    proof = Proof(tuple(trial.levels()), limit, reference=trial.judge)
    # What rounding explains at the end it explains on the way.
    allowed = max(limit, _ON_THE_WAY * proof.worst) if proof.holds else limit
    try:
        return replace(proof, steps=trial.steps(allowed, holds=proof.holds))
    except CannotRun:
        return proof


@dataclass(frozen=True)
class _Judged:
    """Inputs, and what the reference makes of them: in float64, and in its own dtype."""

    arrays: Sequence[Array]
    precise: list[Array]
    own: list[Array]
    kind: int = INVENTED


class _Trial:
    def __init__(self, reference: Side, other: Side, limit: float) -> None:
        self.reference, self.other, self.limit = reference, other, limit
        self.free = bool(free_axes(reference) and free_axes(other))
        self.ways: dict[str, Run] = dict(other.runs)
        self.differences = {name: Difference(limit) for name in self.ways}
        self.refused: dict[str, str] = {}
        self.accepted: list[_Judged] = []
        self.judge = FLOAT64
        self.trail = Trail(reference, other)
        self._followed: _Judged | None = None

    def add(self, inputs: Sequence[Sequence[Array]], data: Sequence[Array] = ()) -> None:
        """Hold all ways of running the other against the reference, one after the other."""
        judged = list(self._judged([*inputs, data] if data else inputs))
        if data:
            judged[-1] = replace(judged[-1], kind=_GIVEN)
        self.accepted += judged
        for name, run in list(self.ways.items()):
            if name in self.refused:
                continue
            try:
                for each in judged:
                    self._take(name, each, run(each.arrays))
            except CannotRun as reason:
                self.refused[name] = str(reason)
        if len(self.refused) == len(self.ways) and _REFERENCE not in self.ways:
            self.ways[_REFERENCE] = self.other.precise
            self.differences[_REFERENCE] = Difference(self.limit)
            for each in self.accepted:
                try:
                    self._take(_REFERENCE, each, self.other.precise(each.arrays))
                except CannotRun as reason:
                    raise BncheckError(str(reason), "see what it names") from None

    def _judged(self, inputs: Sequence[Sequence[Array]]) -> Iterator[_Judged]:
        """Each in turn; what lies on the way is kept of the smallest, when the others are done."""
        found: dict[int, _Judged] = {}
        for place in sorted(range(len(inputs)), key=lambda place: -_size(inputs[place])):
            last = self._followed is None and len(found) == len(inputs) - 1
            found[place] = self._judge(inputs[place], self.trail.know if last else None)
            self._followed = found[place] if last else self._followed
        return (found[place] for place in sorted(found))

    def _judge(self, arrays: Sequence[Array], see: See | None) -> _Judged:
        run = next(iter(self.reference.runs.values()))
        try:
            precise = self.reference.precise(arrays, see)
        except CannotRun as reason:
            return self._as_written(run, arrays, str(reason))
        try:
            own = run(arrays)
        except CannotRun:
            own = precise
        give_back()  # what lay on the way
        return _Judged(arrays, precise, own)

    def _as_written(self, run: Run, arrays: Sequence[Array], reason: str) -> _Judged:
        epsilon, generator = epsilon_for(a.dtype.name for a in arrays), np.random.default_rng(_SEED)
        moved = [a * steps(a, epsilon, generator) if is_float(a) else a for a in arrays]
        try:
            outputs, other = run(arrays), run(moved)
            # That rounding makes an output overflow excuses nothing.
            own = [np.where(np.isfinite(b), b, a) for a, b in zip(outputs, other, strict=True)]
            judged = _Judged(arrays, outputs, own)
        except CannotRun as error:
            raise BncheckError(f"{reason}, nor as it is ({error})", "see what it names") from None
        self.judge = AS_WRITTEN
        return judged

    def _take(self, name: str, judged: _Judged, new: list[Array]) -> None:
        if len(new) != len(judged.precise):
            raise BncheckError(
                f"has {len(new)} floating outputs where the other has {len(judged.precise)}",
                "compare files of the same model",
            )
        batch = self.reference.batch_of(judged.arrays)
        self.differences[name].add(batch, judged.precise, new, judged.own, judged.kind)

    def steps(self, limit: float, *, holds: bool) -> tuple[Step, ...]:
        """What lies on the way. Raises CannotRun.

        A unit may be dead on a few samples; where all is well, the first are enough.
        """
        if self.judge != FLOAT64:
            raise CannotRun
        if holds and self._followed is not None:
            return self.trail.follow(self._followed.arrays, limit)
        most = max(self.accepted, key=lambda judged: _size(judged.arrays))
        whole = Trail(self.reference, self.other)
        self.reference.precise(most.arrays, whole.know)
        return whole.follow(most.arrays, limit)

    @property
    def holds(self) -> bool:
        return all(
            d.parity().holds for name, d in self.differences.items() if name not in self.refused
        )

    def allow_rounding_of(self, source: Side) -> None:
        """All that rounding costs, where the other computes what its source does in float64."""
        if not self._is_written_from(source):
            return
        for difference in self.differences.values():
            difference.largest_excuse, difference.pooled = np.inf, True

    def _is_written_from(self, source: Side) -> bool:
        """Whether both compute the same from the same numbers, in float64."""
        try:
            for judged in self.accepted[:2]:
                pairs = zip(
                    source.precise(judged.arrays), self.other.precise(judged.arrays), strict=True
                )
                if any(relative_error(mine, its) > _SAME for mine, its in pairs):
                    return False
        except CannotRun:
            return False
        return True

    @property
    def needs_more(self) -> bool:
        return any(difference.needs_more for difference in self.differences.values())

    def levels(self) -> Iterator[LevelParity]:
        for name, difference in self.differences.items():
            if name in self.refused:
                yield LevelParity(name, None, refused=self.refused[name])
            else:
                errors = dict(zip(self.other.outputs, difference.errors(), strict=False))
                yield LevelParity(name, difference.parity(), errors, reference=self.judge)


def _size(arrays: Sequence[Array]) -> int:
    return max((array.size for array in arrays), default=0)


def _check_ports(first: Side, second: Side) -> None:
    if len(first.inputs) != len(second.inputs):
        raise BncheckError(
            f"takes {len(second.inputs)} inputs where the other takes {len(first.inputs)}",
            "compare files of the same model",
        )
    for mine, its in zip(first.inputs, second.inputs, strict=True):
        pairs = zip(mine.shape, its.shape, strict=False)
        fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        if len(mine.shape) != len(its.shape) or any(a != b for a, b in fixed):
            raise BncheckError(
                f"takes {its.name} of {_sizes(its.shape)} where the other takes "
                f"{_sizes(mine.shape)}",
                "compare files of the same model",
            )
        if mine.dtype != its.dtype and "int" in mine.dtype + its.dtype:
            raise BncheckError(
                f"takes {its.name} as {its.dtype} where the other takes {mine.dtype}",
                "compare files of the same model",
            )
    if not first.outputs:
        raise BncheckError("has no floating output to compare", "let the model return its scores")


def _sizes(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape)) or "no axes"


def _inputs(reference: Side, other: Side) -> Iterator[list[Array]]:
    """Fresh inputs that both take, at the usual batch sizes first.

    Other free axes are twice as long in every second set, where the model can be run at that size.
    """
    generator = np.random.default_rng(_SEED)
    stricter = min((reference, other), key=free_axes)
    own = next(iter(reference.runs.values()))
    for place, batch in enumerate([*BATCHES, *[ENOUGH_VALUES // 4] * _MORE]):
        arrays = fresh(stricter, batch, 1 + place % 2, generator)
        if place % 2 and stricter.shapes(batch, 2) != stricter.shapes(batch, 1):
            try:
                own(arrays)
            except (CannotRun, RuntimeError, ValueError, BncheckError):
                arrays = fresh(stricter, batch, 1, generator)
        yield arrays
