"""BN109."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.thresholds import DEAD_VARIANCE
from bncheck.core.words import count
from bncheck.layers.facts import dead_channels
from bncheck.rules.rule import Network, Rule, rule


@rule("BN109", "dead-channels", Severity.INFO)
def report_dead_channels(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Channels whose input never varies: the running variance is practically zero.

    Weight decay and pruning kill channels, and a network works all the same: real ones have
    hundreds. Worth knowing for two reasons: they can be pruned, and a fold multiplies them by up to
    1/sqrt(eps), 316 at 1e-5, should they ever wake up.

    Criterion: 0 <= running variance < 1e-10.

    Fix: none needed; prune the channels to save work.
    """
    for layer in network.suspects(lambda c: c.any(c.var < DEAD_VARIANCE)):
        dead = dead_channels(layer)
        if dead.any():
            number = int(dead.sum())
            yield self.finding(
                Severity.INFO,
                layer.name,
                f"{number} of {count(layer.channels, 'channel')} never vary "
                "(running variance below 1e-10)",
                "nothing needed; they can be pruned",
                channels=number,
                worst=[int(index) for index in np.flatnonzero(dead)[:8]],
            )
