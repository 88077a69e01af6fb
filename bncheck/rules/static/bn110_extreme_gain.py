"""BN110."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.layers.facts import median
from bncheck.rules.rule import Network, Rule, rule

if TYPE_CHECKING:
    from bncheck.layers.channels import Channels, Flags
    from bncheck.layers.norm_layer import Floats

_SPREAD = 100.0
_NEAR_EPS = 10.0
_MATTERS = 0.1


def _gain(scale: Floats, var: Floats, eps: float | Floats) -> Floats:
    return np.where(np.greater(eps, 0), scale / np.sqrt(var + eps), scale)


def _is_eps(scale: Floats, var: Floats, eps: float | Floats) -> Flags:
    """Where the gain is eps's doing."""
    return np.asarray((var < _NEAR_EPS * eps) & (scale > _MATTERS))


def _spreads(c: Channels) -> Flags:
    """Whether the largest gain is far above the smallest, which the median is not below."""
    scale, eps = np.abs(c.weight), c.each(c.eps)
    gain = _gain(scale, c.var, eps)
    return (c.most(gain) > _SPREAD * c.least(gain)) | c.any(_is_eps(scale, c.var, eps))


@rule("BN110", "extreme-fold-gain", Severity.INFO)
def extreme_gain(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Some channels are amplified far more than the rest, which quantisation will feel.

    Folding multiplies a channel's weights by weight / sqrt(variance + eps). Where that gain is a
    hundred times the layer's median, one scale per tensor cannot serve all channels (Sheng et al.
    2018, arXiv 1803.08607: MobileNet fell from 70.5 % to 1.8 % at int8), and where the variance is
    about as small as eps the gain is eps's doing.

    Criterion: gain above 100 times the layer's median, or variance below 10 eps with
    |weight| > 0.1.

    Fix: none in float. Quantise per channel, or set such channels' variance to a sane value.
    """
    for layer in network.suspects(_spreads):
        if layer.statistics is None or layer.eps.value is None:
            continue
        var = layer.statistics[1]
        weight = np.ones(1) if layer.weight is None else layer.weight.astype(np.float64)
        scale = np.abs(np.broadcast_to(weight, var.shape) if weight.size == 1 else weight)
        if scale.shape != var.shape or not np.isfinite(scale).all():
            continue
        gain = _gain(scale, var, layer.eps.value)
        middle = median(gain)
        extreme = (gain > _SPREAD * middle) & (middle > 0)
        extreme |= _is_eps(scale, var, layer.eps.value)
        if extreme.any():
            number, most = int(extreme.sum()), float(gain[extreme].max())
            yield self.finding(
                Severity.INFO,
                layer.name,
                f"{number} of {count(layer.channels, 'channel')} with a disproportionate gain, "
                f"up to {most:.3g} (median {middle:.3g})",
                "nothing in float; quantise per channel",
                channels=number,
                gain=most,
                median=middle,
            )
