"""What one explanation says of a measurement, and which of several are believed.

Explanations compete layer by layer. One wins a layer where it predicts at least LEAST of the
layer's deviation and MARGIN more than any simpler one; several may stand together, a layer each.
What no explanation covers is reported as unexplained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Evidence, Severity

if TYPE_CHECKING:
    from bncheck.rules.rule import AnyRule

#: The least share of a layer's deviation that an explanation must predict to be named.
LEAST: Final = 0.75
#: By how much a freer explanation must beat a simpler one.
MARGIN: Final = 0.08


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
    `predict` numbers only describes a pattern.
    """

    rule: AnyRule
    shares: Mapping[str, float]
    message: str
    advice: str = ""
    fault: Fault = Fault.STATISTICS
    free: float = 0.0
    most: Severity = Severity.ERROR
    predicts: bool = True
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    def of(self, layer: str) -> float:
        """The share of a layer's deviation that it predicts."""
        return self.shares.get(layer, 0.0)


def believed(claims: Iterable[Claim], off: Mapping[str, float]) -> list[tuple[Claim, list[str]]]:
    """The claims that win, each with its layers; `off` weighs the layers that deviate.

    The claim that explains most of the whole deviation comes first.
    """
    ordered = sorted(claims, key=lambda claim: claim.free)
    won: dict[int, list[str]] = {}
    for layer in off:
        best = _best(ordered, layer)
        if best is not None:
            won.setdefault(ordered.index(best), []).append(layer)
    found = [(ordered[place], layers) for place, layers in won.items()]
    return sorted(found, key=lambda pair: -sum(off[name] * pair[0].of(name) for name in pair[1]))


def _best(ordered: Sequence[Claim], layer: str) -> Claim | None:
    best: Claim | None = None
    for claim in ordered:
        share = claim.of(layer)
        if share < LEAST:
            continue
        if best is None or share > best.of(layer) + MARGIN * (claim.free > best.free):
            best = claim
    return best
