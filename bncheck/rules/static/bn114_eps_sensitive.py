"""BN114."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bncheck.findings import Finding, Severity
from bncheck.layers import NormLayer
from bncheck.rules.rule import Network, Rule, rule
from bncheck.rules.static.bn109_dead_channels import dead_channels

#: PyTorch's eps, and that of TensorFlow, Keras and their ports.
_PYTORCH, _TENSORFLOW = 1e-5, 1e-3
_FELT = 0.05


@rule("BN114", "eps-sensitive", Severity.WARNING, Severity.INFO)
def eps_sensitive(self: Rule, network: Network) -> Iterator[Finding]:
    """Variances are so small that eps takes part in the result, so the right eps matters.

    A state dict does not hold eps. Networks from TensorFlow use 1e-3, PyTorch's default is 1e-5;
    where variances are of that size, the wrong one changes what the layer computes and no check
    with data can tell.

    Criterion: RMS over living channels of |sqrt((var + 1e-3) / (var + 1e-5)) - 1| from 0.05: info.
    Warning where the eps in the file differs from the one that --eps expects.

    Fix: build the model with the eps it was trained with, and pass it to bncheck with --eps.
    """
    for layer in network.tracked:
        said = layer.eps.value if layer.eps.known else None
        effect = _effect(layer, _TENSORFLOW, _PYTORCH)
        if said is not None and network.eps is not None and not _same(said, network.eps):
            yield self.finding(
                Severity.WARNING,
                layer.name,
                f"eps in the file is {said:g}, --eps expects {network.eps:g}",
                "build the model with the eps that it was trained with",
                eps=said,
                expected=network.eps,
                effect=_effect(layer, said, network.eps),
            )
        elif effect >= _FELT:
            known = "not in the file" if said is None else f"{said:g}"
            yield self.finding(
                Severity.INFO,
                layer.name,
                f"eps of 1e-3 or 1e-5 makes a difference of {effect:.0%} to its output "
                f"(eps is {known})",
                "be sure to use the eps that it was trained with; give it with --eps",
                effect=effect,
            )


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6)


def _effect(layer: NormLayer, one: float, other: float) -> float:
    """RMS relative change of the output between two eps; dead channels have no output to change."""
    if layer.statistics is None:
        return 0.0
    var = layer.statistics[1][~dead_channels(layer)]
    if not var.size or min(one, other) < 0:
        return 0.0
    ratio = np.sqrt((var + max(one, other)) / (var + min(one, other)))
    return float(np.sqrt(np.mean((ratio - 1) ** 2)))
