"""BN102."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.errors import quoted
from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.rules.rule import Network, Rule, rule

if TYPE_CHECKING:
    from bncheck.layers.channels import Channels, Flags

_MOST_NAMED = 4
_SKIP: Final = "skip non-finite batches while training"


def _holds_one(c: Channels) -> Flags:
    """NaN and infinity survive every sum."""
    return c.any(~np.isfinite(c.mean + c.var + c.weight + c.bias)) | ~np.isfinite(c.eps)


@rule("BN102", "non-finite-statistics", Severity.ERROR)
def non_finite(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """A layer holds NaN or infinity, so in eval() its output is NaN for every input.

    One bad batch is enough: the running average keeps a NaN for ever, 500 clean batches later it
    is still there, while train() never looks at it and the loss stays fine. Half precision gets
    there by overflow. The affine parameters are looked at too: there the optimizer did it.

    Criterion: any running mean, running variance, weight or bias that is not finite, anything that
    is called like a statistic and belongs to no layer, or an eps that is not finite.

    Fix: recalibrate the statistics with data (non-finite weights cannot be recalibrated: go back to
    an earlier checkpoint), and skip non-finite batches while training.
    """
    for layer in network.suspects(_holds_one, network.layers):
        if layer.plain_norm:  # BN120
            continue
        tensors = {
            "running mean": layer.mean,
            "running variance": layer.var,
            "weight": layer.weight,
            "bias": layer.bias,
        }
        bad = {
            name: int((~np.isfinite(tensor.astype(np.float64))).sum())
            for name, tensor in tensors.items()
            if tensor is not None
        }
        bad = {name: number for name, number in bad.items() if number}
        eps = layer.eps.value
        odd = eps is not None and not math.isfinite(eps)
        if not bad and not odd:
            continue
        places = [f"{name} of {count(number, 'channel')}" for name, number in bad.items()]
        where = " and ".join([*places, *["eps"] * odd])
        parameters = {"weight", "bias"} & bad.keys()
        yield self.finding(
            Severity.ERROR,
            layer.name,
            f"NaN or infinity in the {where} (of {layer.channels})",
            "go back to a checkpoint whose weights are finite"
            if parameters
            else f"recalibrate with data, and {_SKIP}"
            if bad
            else "build the model with the eps that it was trained with, and save it again",
            instead=_SKIP if bad and not parameters else None,
            channels=max(bad.values(), default=layer.channels),
        )
    for group in network.unjudged:
        if not group.finite:
            names = " or ".join(quoted(name) for name in group.names[:_MOST_NAMED])
            yield self.finding(
                Severity.ERROR,
                group.owner,
                f"NaN or infinity in {names}",
                "find out what these tensors are",
            )
