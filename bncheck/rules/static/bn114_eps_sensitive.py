"""BN114."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import percent
from bncheck.layers.facts import dead_channels
from bncheck.layers.norm_layer import NormLayer, Origin, same_eps
from bncheck.rules.rule import Network, Rule, rule

if TYPE_CHECKING:
    from bncheck.layers.norm_layer import Floats

#: PyTorch's eps, and that of TensorFlow, Keras and their ports.
_PYTORCH, _TENSORFLOW = 1e-5, 1e-3
_FELT = 0.05
#: The RMS over channels is no larger than the change of one of them, but for rounding.
_MAY_FEEL = 0.99 * _FELT


@rule("BN114", "eps-sensitive", Severity.WARNING, Severity.INFO)
def eps_sensitive(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Variances are so small that eps takes part in the result, so the right eps matters.

    A state dict does not hold eps. Networks from TensorFlow use 1e-3, PyTorch's default is 1e-5;
    where variances are of that size, the wrong one changes what the layer computes and no check
    with data can tell.

    Criterion: RMS over living channels of |sqrt((var + 1e-3) / (var + 1e-5)) - 1| from 0.05: info.
    Warning where the file, the model and --eps disagree about it.

    Fix: build the model with the eps it was trained with, and pass it to bncheck with --eps.
    """
    may = network.suspects(lambda c: c.any(_change(c.var, _TENSORFLOW, _PYTORCH) >= _MAY_FEEL))
    for layer in may if network.eps is None else network.tracked:
        said = layer.eps.value if layer.eps.known else None
        effect = _effect(layer, _TENSORFLOW, _PYTORCH)
        if said is not None and network.eps is not None and not same_eps(said, network.eps):
            place = "in the model" if layer.eps.origin is Origin.MODEL else "in the file"
            yield eps_contradicted(layer, (place, said), ("from --eps", network.eps))
        elif effect >= _FELT:
            known = "not in the file" if said is None else f"{said:g}"
            yield self.finding(
                Severity.INFO,
                layer.name,
                f"eps of 1e-3 or 1e-5 makes a difference of {percent(effect, 0)} to its output "
                f"(eps is {known})",
                "use the eps that it was trained with; set it with --eps",
                effect=effect,
            )


def eps_contradicted(layer: NormLayer, one: tuple[str, float], other: tuple[str, float]) -> Finding:
    """The warning that two sources disagree; each is where it was found, and its value."""
    (place, said), (elsewhere, expected) = one, other
    return eps_sensitive.finding(
        Severity.WARNING,
        layer.name,
        f"eps {place} is {said:g}, but {expected:g} {elsewhere}",
        "build the model with the eps that it was trained with",
        eps=said,
        expected=expected,
        effect=_effect(layer, said, expected),
    )


def _effect(layer: NormLayer, one: float, other: float) -> float:
    """RMS relative change of the output between two eps; dead channels have no output to change."""
    if layer.statistics is None:
        return 0.0
    var = layer.statistics[1][~dead_channels(layer)]
    if not var.size or min(one, other) < 0:
        return 0.0
    return float(np.sqrt(np.mean(_change(var, one, other) ** 2)))


def _change(var: Floats, one: float, other: float) -> Floats:
    """Relative change of each channel's output between two eps."""
    return np.asarray(np.sqrt((var + max(one, other)) / (var + min(one, other))) - 1)
