"""BN112."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Network, Rule, rule

#: What TensorFlow, Keras and TPU code call momentum or decay: the share that is *kept*.
_TENSORFLOW = (0.9, 0.99, 0.997, 0.999)
_LARGE = 0.5


@rule("BN112", "momentum-convention", Severity.ERROR, Severity.WARNING)
def momentum_convention(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """The momentum looks like TensorFlow's: the share that is kept instead of the share replaced.

    PyTorch computes running = (1 - m) * running + m * batch. A value of 0.9 copied from TensorFlow
    (there: running = 0.9 * running + 0.1 * batch) makes the statistics follow the last batch or
    two, so eval() depends on which batch came last.

    Criterion: a momentum from 0.5: warning; one of 0.9, 0.99, 0.997 and 0.999: error. Only where
    the file or --momentum says it.

    Fix: use 1 - m in PyTorch and recalibrate with data.
    """
    for layer in network.tracked:
        momentum = layer.momentum.value
        # In a graph for inference momentum is a leftover that nothing reads.
        idle = not network.counts_batches and not layer.training
        if not layer.momentum.known or momentum is None or momentum < _LARGE or idle:
            continue
        swapped = any(math.isclose(momentum, value, rel_tol=1e-6) for value in _TENSORFLOW)
        yield self.finding(
            Severity.ERROR if swapped else Severity.WARNING,
            layer.name,
            f"momentum is {momentum:g}"
            + (", TensorFlow's value in PyTorch's formula" if swapped else "")
            + f": each batch replaces {momentum:.0%} of the running statistics",
            f"set momentum={1 - momentum:.3g} and recalibrate with data",
            instead=f"set momentum={1 - momentum:.3g}",
            momentum=momentum,
        )
