"""What one explanation says of a measurement, and which of several are believed.

One explains a layer where it predicts at least LEAST of the layer's deviation. The smallest set of
explanations that explains most of the whole deviation is believed; several may stand together, a
layer each. What no explanation covers is reported as unexplained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Evidence, Severity

if TYPE_CHECKING:
    from bncheck.rules.rule import AnyRule

#: The least share of a layer's deviation that an explanation must predict to be named.
LEAST: Final = 0.75
#: By how much an explanation of any freedom must beat one of none; half of it at MIDDLE numbers.
MARGIN: Final = 0.08
MIDDLE: Final = 8.0
#: What a second explanation must add to the share of the whole.
COST: Final = 0.1


class Fault(StrEnum):
    """What is wrong, which decides what to do."""

    STATISTICS = "statistics"
    DATA = "data"
    EITHER = "either"
    CODE = "code"


@dataclass(frozen=True)
class Claim:
    """One explanation: the share of each layer's deviation that it predicts, and its words.

    `shares` has the layers that it is about; `fix` is what to do beside recalibrating, and `free`
    orders claims: of two that explain as much, the one with less freedom wins. One that does not
    `predict` numbers only describes a pattern. One that `stands` was seen by running the model as
    it was trained, so it is told though results are no worse for it.
    """

    rule: AnyRule
    shares: Mapping[str, float]
    message: str
    advice: str = ""
    fault: Fault = Fault.STATISTICS
    free: float = 0.0
    most: Severity = Severity.ERROR
    predicts: bool = True
    stands: bool = False
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    def of(self, layer: str) -> float:
        """The share of a layer's deviation that it predicts."""
        return self.shares.get(layer, 0.0)

    def net(self, layer: str) -> float:
        """The same less what its freedom alone may give."""
        return self.of(layer) - MARGIN * self.free / (self.free + MIDDLE)


def believed(claims: Iterable[Claim], off: Mapping[str, float]) -> list[tuple[Claim, list[str]]]:
    """The claims that win, each with its layers; `off` weighs the layers that deviate.

    Of all sets of up to three rules, the one that explains most of the whole deviation, less COST
    for every rule beyond the first: one fault is likelier than two that happen to meet. The claim
    that explains most comes first.
    """
    ordered = sorted(claims, key=lambda claim: claim.free)
    rules = list(dict.fromkeys(claim.rule.code for claim in ordered))
    sets = [one for size in (1, 2, 3) for one in combinations(rules, size)]
    if not sets or not off:
        return []
    chosen = max(sets, key=lambda one: _worth(ordered, one, off))
    won: dict[int, list[str]] = {}
    for layer in off:
        best = _best(ordered, chosen, layer)
        if best is not None:
            won.setdefault(ordered.index(best), []).append(layer)
    found = [(ordered[place], layers) for place, layers in won.items()]
    return sorted(found, key=lambda pair: -sum(off[name] * pair[0].of(name) for name in pair[1]))


def _worth(ordered: Sequence[Claim], chosen: Sequence[str], off: Mapping[str, float]) -> float:
    """The share of the whole deviation that some rules explain together, less what they cost."""
    explained = 0.0
    for layer, weight in off.items():
        best = _best(ordered, chosen, layer)
        explained += weight * best.net(layer) if best is not None else 0.0
    return explained / sum(off.values()) - COST * (len(chosen) - 1)


def _best(ordered: Sequence[Claim], chosen: Sequence[str], layer: str) -> Claim | None:
    able = [c for c in ordered if c.rule.code in chosen and c.of(layer) >= LEAST]
    return max(able, key=lambda claim: claim.net(layer), default=None)
