"""Averages that were updated too rarely, repaired without data.

An average that began at 0 and 1 and was updated t times with momentum m still holds w0 = (1-m)^t of
them, so (mean / (1-w0), (var - w0) / (1-w0)) is what it would be without. That holds only where
t and m are right, so only what BN105 finds is repaired, and nothing in a file that refutes them. A
counter that a port left behind need not be refuted by a variance: the weights must confirm it. They
predict the means of layers (BN117), and these must fit better without the initial share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.inspecting.chains import chains_of
from bncheck.layers.facts import at_initial_statistics, initial_share, median, predicted_w2
from bncheck.layers.norm_layer import NormLayer
from bncheck.reading.checkpoint import Checkpoint
from bncheck.recalibrating.counters import SETTLED, new_counters
from bncheck.recalibrating.report import RecalibrationReport
from bncheck.rules.rule import Network
from bncheck.rules.static.bn105_under_warmed import under_warmed_layers
from bncheck.rules.static.bn106_batch_counter import contradicted_counters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Bits of a stored variance by the size of a number; of two bytes as of bfloat16.
_BITS: Final = {2: 8, 4: 23, 8: 52}
#: Units in the last place that the rounding of an average's updates may add up to.
_ROUNDED: Final = 64
#: A repaired variance far below eps would multiply whatever a dead channel still sees.
_LEAST_OF_EPS: Final = 0.1
#: By so much the repaired means must be nearer to those that the weights predict. Sound networks
#: with counters of others reach 0.92; those under-warmed in fact are below from a share of 0.3 on.
_NEARER: Final = 0.9
_NOTHING_LEFT: Final = "a variance is all initial value, so the formula leaves nothing of it"
_WITH_DATA: Final = "give --model and --data"


def repair_without_data(
    checkpoint: Checkpoint, layers: Sequence[NormLayer], thresholds: Thresholds = DEFAULT
) -> RecalibrationReport:
    """Take the initial 0 and 1 out of averages that were updated too rarely."""
    subject = str(checkpoint.path)
    network = Network(tuple(layers), thresholds=thresholds)
    _refuse_contradiction(network, subject)
    if not any(found.layer.momentum.known for found in under_warmed_layers(network)):
        raise BncheckError(
            "has no average that can be repaired without data (its momentum and batch counter "
            "would have to say that it is under-warmed, as BN105 does)",
            f"{_WITH_DATA}, and if you know it --momentum",
            subject,
        )
    warming = [layer for layer in layers if _is_warming(layer)]
    mended = [layer for layer in warming if _leaves_enough(layer)]
    left = {layer.name for layer in warming} - {layer.name for layer in mended}
    if not mended:
        raise BncheckError(f"cannot be repaired without data: {_NOTHING_LEFT}", _WITH_DATA, subject)
    statistics = {layer.name: _without_initial(layer) for layer in mended}
    _refuse_unconfirmed(checkpoint, layers, statistics)
    names = tuple(statistics)
    return RecalibrationReport(
        names,
        {layer.name: predicted_w2(layer, initial_share(layer)) for layer in mended},
        dict.fromkeys(names),  # only data could tell
        statistics,
        new_counters(mended),
        unmeasured=dict.fromkeys(sorted(left), _NOTHING_LEFT),
        method="formula",
    )


def _refuse_contradiction(network: Network, subject: str) -> None:
    """A counter that one variance refutes is nothing to compute with anywhere in the file."""
    wrong = contradicted_counters(network)
    if wrong:
        counters = " or ".join(f"{counter:,}" for counter in sorted(wrong)[:3])
        raise BncheckError(
            "cannot be repaired without data: a running variance is lower than so many updates "
            f"could bring it, so the batch counter ({counters}) or the momentum is wrong (BN106)",
            _WITH_DATA,
            subject,
        )


def _refuse_unconfirmed(
    checkpoint: Checkpoint,
    layers: Sequence[NormLayer],
    statistics: Mapping[str, tuple[Floats, Floats]],
) -> None:
    repaired = []
    for layer in layers:
        mean, var = statistics.get(layer.name, (layer.mean, layer.var))
        repaired.append(replace(layer, mean=mean, var=var))
    old, new = (_means_off(checkpoint, found, statistics) for found in (layers, repaired))
    if old is None or new is None or new > _NEARER * old:
        raise BncheckError(
            "cannot be repaired without data: the weights do not confirm that it is under-warmed, "
            "and the batch counter may not be its own",
            _WITH_DATA,
            str(checkpoint.path),
        )


def _means_off(
    checkpoint: Checkpoint, layers: Sequence[NormLayer], names: Collection[str]
) -> float | None:
    """By how many sd the means of layers are off what the weights predict, in the median."""
    chains = chains_of(checkpoint, tuple(layers))
    found = [chain.deviation for chain in chains.found if chain.layer in names]
    return median(np.array(found)) if found else None


def _is_warming(layer: NormLayer) -> bool:
    usable = layer.statistics is not None and layer.momentum.known
    return usable and not at_initial_statistics(layer) and SETTLED < initial_share(layer) < 1


def _leaves_enough(layer: NormLayer) -> bool:
    """Whether every variance is above its initial share by more than rounding, and not dead."""
    assert layer.statistics is not None
    assert layer.var is not None
    w0 = initial_share(layer)
    rounding = _ROUNDED * 2.0 ** -_BITS.get(layer.var.dtype.itemsize, 8) * w0
    dead = _LEAST_OF_EPS * (layer.eps.value or 0.0) * (1 - w0)
    return bool((layer.statistics[1] - w0 > max(rounding, dead)).all())


def _without_initial(layer: NormLayer) -> tuple[Floats, Floats]:
    assert layer.statistics is not None
    w0 = initial_share(layer)
    mean, var = layer.statistics
    return mean / (1 - w0), (var - w0) / (1 - w0)
