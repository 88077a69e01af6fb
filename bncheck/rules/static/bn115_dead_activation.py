"""BN115."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.rules.rule import Network, Rule, rule

#: Phi(-3) = 0.13 % of normally distributed outputs are positive.
_DEAD = -3.0


@rule("BN115", "dead-activation", Severity.INFO)
def dead_activation(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Channels whose bias is so negative that a ReLU behind them would hardly ever open.

    After normalisation a channel is about normal with mean bias and standard deviation |weight|,
    so a ReLU passes a share Phi(bias / |weight|). The file does not tell whether a ReLU follows.

    Criterion: bias / |weight| < -3, which is less than 0.13 % active.

    Fix: none needed; such channels can be pruned.
    """
    for layer in network.suspects(lambda c: c.any(c.bias < _DEAD * np.abs(c.weight))):
        if layer.weight is None or layer.bias is None or layer.weight.shape != layer.bias.shape:
            continue
        scale, bias = np.abs(layer.weight.astype(np.float64)), layer.bias.astype(np.float64)
        shut = int(((scale > 0) & (bias < _DEAD * scale)).sum())
        if shut:
            yield self.finding(
                Severity.INFO,
                layer.name,
                f"{shut} of {count(layer.channels, 'channel')} would keep a ReLU shut",
                "nothing needed; they can be pruned if a ReLU follows",
                channels=shut,
            )
