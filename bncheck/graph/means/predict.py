"""The means that a graph's affines and weights predict for the normalisations behind them.

What a BatchNorm gives is taken for N(beta, gamma^2) in each channel: that is what its statistics
are for. Functions of a number act on quantiles (spread.py); linear maps act on means, and add
variances as if their inputs were independent. What is not described, and what comes of it, is not
predicted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bncheck.graph import specs
from bncheck.graph.dataflow import Floats, Graph, Op
from bncheck.graph.linear import Linear
from bncheck.graph.means import functions, maps, moves
from bncheck.graph.means.spread import InPieces, Spread, Step, UnknownError, along

#: Numbers that are gone through in one prediction, a few nanoseconds each, and held at a time (128
#: MB): a file may list 100,000 calls, each with 65,536 distributions.
_MOST_WORK: Final = 1 << 28
_MOST_HELD: Final = 1 << 24


@dataclass(frozen=True)
class Prediction:
    """What is predicted for the input of a normalisation: the mean of each channel.

    `stored` is the value that holds the running mean; `norms` and `maps` as in Spread.
    """

    label: str
    stored: str
    mean: Floats
    norms: tuple[str, ...]
    maps: tuple[str, ...]


def predicted_means(
    graph: Graph, weights: Callable[[str], Floats | InPieces | None], side: int | None = None
) -> Iterator[Prediction]:
    """A prediction for each normalisation whose input is understood.

    Borders are left out of account. With `side` images are taken to have shrunk to so many
    positions along each axis, so that the outer parts of a padded kernel mostly see zeros: only
    what depends on such a kernel is predicted then.
    """
    held = _Held(graph, weights)
    taken = range(len(graph.ops)) if side is None else _around_padding(graph)
    for index, op in enumerate(graph.ops):
        if held.work > _MOST_WORK:  # of no network: what follows is not predicted
            return
        if index in taken:
            if isinstance(op.spec, specs.Norm):
                found = _prediction(graph, op, held.known.get(op.inputs[0] or ""))
                if found is not None:
                    yield found
            with contextlib.suppress(UnknownError):
                held.take(op, _passed(Step(graph, op, held.known, held.weight, side)))
        held.drop(index)


def _around_padding(graph: Graph) -> set[int]:
    """The calls whose results depend on a padded kernel, and those that they need.

    What a normalisation makes depends on nothing before it.
    """
    found, moved = set[int](), set[str]()
    for index, op in enumerate(graph.ops):
        pads = isinstance(op.spec, specs.Conv) and op.spec.pads_with_zeros
        if pads or not moved.isdisjoint(filter(None, op.inputs)):
            found.add(index)
            if not isinstance(op.spec, specs.Norm):
                moved.update(op.outputs)
    needed = set[str]()
    for index, op in reversed([*enumerate(graph.ops)]):
        if index in found or not needed.isdisjoint(op.outputs):
            found.add(index)
            if not isinstance(op.spec, specs.Norm):
                needed.update(filter(None, op.inputs))
    return found


class _Held:
    """What is known of values that are still read, and how many numbers were gone through."""

    def __init__(self, graph: Graph, weights: Callable[[str], Floats | InPieces | None]) -> None:
        self.known: dict[str, Spread] = {}
        self.work = self._numbers = 0
        self._weights = weights
        last = {n: i for i, op in enumerate(graph.ops) for n in (*op.outputs, *op.inputs) if n}
        self._ending: dict[int, list[str]] = {}
        for name, index in last.items():
            self._ending.setdefault(index, []).append(name)

    def weight(self, name: str) -> Floats | InPieces | None:
        """The numbers of a fixed value, counted."""
        found = self._weights(name)
        self.work += 0 if found is None else found.size
        return found

    def take(self, op: Op, spreads: Sequence[Spread]) -> None:
        """The results of a call, as far as there is room for them."""
        for name, spread in zip(op.outputs, spreads, strict=False):
            self.work += _size(spread)
            if self._numbers + _size(spread) <= _MOST_HELD and name not in self.known:
                self._numbers += _size(spread)
                self.known[name] = spread

    def drop(self, index: int) -> None:
        """Values that no call after this one reads."""
        for name in self._ending.get(index, ()):
            if (spread := self.known.pop(name, None)) is not None:
                self._numbers -= _size(spread)


def _size(spread: Spread) -> int:
    return spread.quantiles.size + len(spread.norms) + len(spread.maps)


def _prediction(graph: Graph, op: Op, spread: Spread | None) -> Prediction | None:
    assert isinstance(op.spec, specs.Norm)
    stored = op.input(3)
    shape = graph.shape(stored)
    if spread is None or op.spec.uses_batch or stored is None or not shape or spread.rank < 2:
        return None
    channels = shape[0] if isinstance(shape[0], int) else 0
    mean = along(spread.mean, 1, channels)
    return None if mean is None else Prediction(op.label, stored, mean, spread.norms, spread.maps)


def _passed(step: Step) -> list[Spread]:
    passing = _PASSING.get(type(step.op.spec))
    if passing is None:
        raise UnknownError
    try:
        found = passing(step)
    except (ValueError, IndexError):  # shapes that do not fit: of a model that cannot run
        raise UnknownError from None
    return found if isinstance(found, list) else [found]


_PASSING: Final[Mapping[type, Callable[[Step], Spread | list[Spread]]]] = {
    specs.Norm: maps.norm,
    specs.Conv: maps.convolution,
    specs.ConvTranspose: maps.transposed_convolution,
    Linear: maps.linear,
    specs.Add: functions.added_up,
    specs.Mul: functions.multiplied_up,
    specs.Rectifier: functions.rectified,
    specs.Pointwise: functions.function_of,
    specs.Bounded: functions.bounded,
    specs.Identity: moves.identity,
    specs.Reshape: moves.reshaped,
    specs.Transpose: moves.transposed,
    specs.Expand: moves.expanded,
    specs.Gather: moves.picked,
    specs.Concat: moves.concatenated,
    specs.Split: moves.cut,
    specs.Average: functions.averaged,
    specs.Maximum: functions.largest,
    specs.Pad: moves.padded,
    specs.PixelShuffle: moves.shuffled,
}
