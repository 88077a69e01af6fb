"""BN205."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import Seen
from bncheck.measuring.results import Candidate, Direction, fits_better
from bncheck.rules.data.claim import LEAST, Claim, Fault
from bncheck.rules.data.measured_network import MeasuredNetwork, own_w2
from bncheck.rules.data.scoring import share
from bncheck.rules.rule import Rule, rule

#: Results this close are equally good: half a point.
_CHANCE: Final = 0.005
#: The share of the first layer that a preparation explains which brings W2 below a third.
_BY_STEM: Final = 0.89
#: Other layers deviate by less than this share of the first, where it alone is said to.
_FOLLOWS: Final = 0.5
_EXACTLY: Final = "exactly as in training (including padding and crops)"
#: One scale and shift for all numbers.
ONE_SCALE: Final = 2.0
#: What a pattern without numbers is taken to explain.
_PATTERN: Final = 0.76


@rule("BN205", "input-preprocessing-mismatch", Severity.ERROR, Severity.WARNING)
def preprocessing(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The data are not prepared as those that the statistics were learned on.

    A layer with none before it sees an input directly, so a wrong scale, mean, channel order or
    crop shows there, and deviations further down are its consequence. Every input is looked at for
    itself. It says that data and statistics disagree, not which of them is at fault: the data may
    have been prepared wrongly now, or when the statistics were last updated. Labels tell, but not
    where measured statistics restore the results: they undo a wrong scale as well.

    Criterion: a preparation fits the layer that reads the input (the one that deviates most, where
    several do) at least three times better than the data as given, to a W2 below 0.10, and results
    with it are no worse. Tried are the usual ones (0..1, 0..255, ImageNet, 0.5/0.5, red and blue
    swapped, inverted; of vectors and signals features or samples standardised, sign, order, axes,
    units, logarithm), then a x + b by least squares, given how means and variances move with the
    input, then a scale and a shift for up to three features, or for each. These many numbers must
    explain 75 % of all layers' deviation and, each channel foretold from the others, 75 % of what
    they could have failed to explain: of variances what one scale for all features leaves, of means
    nothing where every feature is shifted (shifts explain whatever a linear layer saw). With the
    data so, every layer is predicted. Or, where measured statistics do not restore the results, W2
    is 0.20 or more in the eval cascade and in the batch cascade the layers of one input alone
    deviate: 2.2 times the median of the others, about as much as the worst of them, and at least
    0.15. Or a layer that is fed the input itself deviates and no other does: it cannot be judged
    whether the data or the statistics are wrong, and recalibrate writes nothing unasked. An error
    where the layer has 0.40 itself, unless the running statistics serve the data better than
    measured ones and no preparation explains it; else a warning.

    Fix: prepare the data as in training. Recalibrate only where deployment prepares them so.
    """
    found = best_candidates(network)
    for place in network.readers:
        best = found.get(place)
        restored = network.mostly_restored
        shares = _shares(network, best)
        if best is not None and best.free > ONE_SCALE and network.whole_share(shares) < LEAST:
            best = None  # as many numbers fit a layer by itself: all layers must be predicted
        if best is not None or (network.most_at(place) and not restored):
            yield _claim(self, network, place, best, shares)
        elif any(map(network.reads_itself, network.readers[place])) and network.stem_alone:
            yield _either(self, network, place)


def _claim(
    self: Rule[MeasuredNetwork, Claim],
    network: MeasuredNetwork,
    place: int,
    best: Candidate | None,
    shares: Mapping[str, float],
) -> Claim:
    first = max(network.readers[place], key=own_w2)
    tried = [c for c in network.measurement.candidates if c.place == place]
    weak = network.direction is Direction.WORSE and best is None
    return Claim(
        self,
        shares if best is not None else _shares(network, None),
        _words(network, place, best),
        advice=f"preprocess {_what(network, place)} {_how(best)}",
        fault=Fault.EITHER if _recalibrating_helps(network, best) else Fault.DATA,
        free=best.free if best else float(first.layer.channels),
        predicts=best is not None and best.usual,
        most=(network.thresholds.severity(own_w2(first)) or Severity.WARNING)
        if not weak
        else Severity.WARNING,
        evidence={
            "candidate": best.name if best else None,
            "candidate_w2": best.w2 if best else None,
            "candidates": [f"{c.name}: {c.w2:.3f}" for c in tried[:5]],
        },
    )


def _either(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork, place: int) -> Claim:
    """Of a layer that is fed the input itself every number may be the data's, or its own fault."""
    own = {m.layer.name for m in network.readers[place]}
    worst = max(network.readers[place], key=own_w2)
    return Claim(
        self,
        dict.fromkeys(own, _PATTERN),
        f"only the layer that is fed {_what(network, place)} itself deviates (W2 "
        f"{own_w2(worst):.2f}): it cannot be judged whether {_what(network, place)} "
        f"{_verb(network)} not preprocessed as in training or its statistics are wrong",
        advice=f"preprocess {_what(network, place)} exactly as in training",
        fault=Fault.DATA if network.direction is Direction.WORSE else Fault.EITHER,
        free=2.0 * worst.layer.channels,
        predicts=False,
        evidence={"candidate": None},
    )


def _shares(network: MeasuredNetwork, best: Candidate | None) -> dict[str, float]:
    """Of every layer, with the data prepared so; behind the first one the rest is consequence."""
    reruns = network.measurement.reruns
    seen: Seen = {}
    if best is not None and reruns is not None:
        seen = reruns.changed(best.transform, best.place)
    shares = {}
    for m in network.layers:
        moments = seen.get(m.layer.name)
        if moments is not None:
            shares[m.layer.name] = share(m, moments.mean, moments.unbiased_var)
        else:
            shares[m.layer.name] = LEAST
    if best is not None:
        shares[best.layer] = max(shares.get(best.layer, 0.0), _BY_STEM)
    return shares


def _words(network: MeasuredNetwork, place: int, best: Candidate | None) -> str:
    first = max(map(own_w2, network.readers[place]))
    alone = float(network.beside(place).max()) < _FOLLOWS * first
    several = len(network.readers) > 1
    layer = f"layer that reads {_what(network, place)}" if several else "first layer"
    what = f"only the {layer} deviates" if alone else f"the {layer} deviates"
    data = f"{_what(network, place)} {_verb(network)}"
    what += f" (W2 {first:.2f}): {data} not preprocessed like the data that the statistics "
    what += "come from"
    if best is None:
        return what
    results = _candidate_results(network)
    with_results = f" with {results}" if results else ""
    if not best.usual:
        return (
            f"{what}, but distributed otherwise: {best.name} would fit (W2 {best.w2:.2f})"
            f"{with_results}"
        )
    return f"{what}; preprocessed as {best.name}, they would fit (W2 {best.w2:.2f}){with_results}"


def _verb(network: MeasuredNetwork) -> str:
    return "is" if len(network.readers) > 1 else "are"


def _what(network: MeasuredNetwork, place: int) -> str:
    return f"input {place + 1}" if len(network.readers) > 1 else "the data"


def _how(best: Candidate | None) -> str:
    return f"as in training: {best.name}" if best else _EXACTLY


def best_candidates(network: MeasuredNetwork) -> dict[int, Candidate]:
    """By input, the preparation that explains the layer that reads it, where one does."""
    c = network.measurement.comparison
    results = None if c is None or not c.usual else c.extra.get("candidate")
    if results is not None and c is not None and results < (c.before or 0.0) - _CHANCE:
        return {}  # the network does worse with data prepared so
    found: dict[int, list[Candidate]] = {}
    for candidate in network.measurement.candidates:
        found.setdefault(candidate.place, []).append(candidate)
    return {place: of_it[0] for place, of_it in found.items() if fits_better(of_it)}


def _candidate_results(network: MeasuredNetwork) -> str:
    comparison = network.measurement.comparison
    if comparison is None or "candidate" not in comparison.extra:
        return ""
    return f"{comparison.metric} {comparison.extra['candidate']:.3f}"


def _recalibrating_helps(network: MeasuredNetwork, best: Candidate | None) -> bool:
    """Measured statistics serve better than the running ones, and no worse than the candidate.

    Without labels, a scale that is in no use may as well be that of the data at their last update.
    """
    comparison = network.measurement.comparison
    if network.direction is Direction.UNKNOWN:
        return best is not None and not best.usual
    if comparison is None or network.direction is not Direction.BETTER or comparison.after is None:
        return False
    candidate = comparison.extra.get("candidate")
    return candidate is None or comparison.after >= candidate - _CHANCE
