"""The means that a graph's affines and weights predict for the normalisations behind them.

What a BatchNorm gives is taken for N(beta, gamma^2) in each channel: that is what its statistics
are for. Functions of a number act on quantiles (spread.py); linear maps act on means, and add
variances as if their inputs were independent. What is not described, and what comes of it, is not
predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from bncheck.graph import specs
from bncheck.graph.dataflow import Floats, Graph, Op
from bncheck.graph.means import functions, maps, moves
from bncheck.graph.means.spread import Spread, Step, UnknownError, along


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
    graph: Graph, weights: Callable[[str], Floats | None], side: int | None = None
) -> Iterator[Prediction]:
    """A prediction for each normalisation whose input is understood.

    Borders are left out of account. With `side` images are taken to have shrunk to so many
    positions along each axis, so that the outer parts of a padded kernel mostly see zeros.
    """
    known: dict[str, Spread] = {}
    for op in graph.ops:
        if isinstance(op.spec, specs.Norm):
            found = _prediction(graph, op, known.get(op.inputs[0] or ""))
            if found is not None:
                yield found
        try:
            spreads = _passed(Step(graph, op, known, weights, side))
        except UnknownError:
            continue
        known.update(zip(op.outputs, spreads, strict=False))


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
    specs.Linear: maps.linear,
    specs.Add: functions.added_up,
    specs.Mul: functions.multiplied_up,
    specs.Rectifier: functions.rectified,
    specs.Pointwise: functions.function_of,
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
