"""BN116."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.reading.kinds import NormKind
from bncheck.rules.rule import Network, Rule, rule

_BATCH = (NormKind.BATCH, NormKind.SYNC)


@rule("BN116", "statistics-not-tracked", Severity.INFO)
def not_tracked(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """A BatchNorm without running statistics normalises with the batch, in eval() too.

    That is what track_running_stats=False asks for. The output for one sample then depends on the
    others in its batch, a batch of one may fail, and the layer can be neither folded nor exported
    for inference with fixed numbers.

    Criterion: a BatchNorm module without running mean and variance that says it does not track
    them.

    Fix: if that is not intended, create the layer with track_running_stats=True and recalibrate.
    """
    for layer in network.layers:
        if layer.kind in _BATCH and not layer.tracked and not layer.missing:
            yield self.finding(
                Severity.INFO,
                layer.name,
                "tracks no running statistics: it normalises with the batch even in eval()",
                "if that is not intended, create it with track_running_stats=True and recalibrate",
            )
