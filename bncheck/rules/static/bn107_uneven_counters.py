"""BN107."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Network, Rule, rule

#: Counters this close are even: a run that was interrupted within a step.
_EVEN = 1.01
_DOUBLE_TOLERANCE = 0.01


@rule("BN107", "uneven-batch-counters", Severity.WARNING, Severity.INFO)
def uneven_counters(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Some layers counted more batches than others.

    A ratio of exactly 2 means that the layer ran forward twice a step: activation checkpointing
    recomputes it in the backward pass and so updates its average twice with the same batch, which
    is as if its momentum were nearly doubled. Other ratios come from frozen or exchanged parts,
    and are only worth knowing.

    Criterion: a layer whose counter differs from the commonest one by more than 1 %: info; by a
    factor of 2.00 +- 0.01: warning. Counters of 0 are BN106's affair.

    Fix: with activation checkpointing use momentum m' = 1 - sqrt(1 - m), or keep BatchNorm out of
    the recomputed part.
    """
    counters = {layer.name: n for layer in network.tracked if (n := layer.counter)}
    if len(counters) < 2:
        return
    usual, _ = min(Counter(counters.values()).items(), key=lambda item: (-item[1], item[0]))
    for name, value in counters.items():
        ratio = max(value, usual) / min(value, usual)
        if ratio <= _EVEN:
            continue
        doubled = abs(ratio - 2) <= _DOUBLE_TOLERANCE
        yield self.finding(
            Severity.WARNING if doubled else Severity.INFO,
            name,
            f"counted {value:,} batches, most layers {usual:,}"
            + (": twice as many or half, as if it ran forward twice a step" if doubled else ""),
            "if activation checkpointing recomputes it, use momentum 1 - sqrt(1 - m); "
            "if it is called twice on purpose, ignore this"
            if doubled
            else "nothing, if this part was frozen, added or replaced during training",
            batches=value,
            usual=usual,
            ratio=ratio,
        )
