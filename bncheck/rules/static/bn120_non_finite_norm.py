"""BN120."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.rules.rule import Network, Rule, rule

_FIX = "go back to a checkpoint whose weights are finite"


@rule("BN120", "non-finite-norm", Severity.ERROR)
def non_finite_norm(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """A norm without running statistics holds NaN or infinity.

    LayerNorm, RMSNorm, GroupNorm, InstanceNorm, Weight Norm and Spectral Norm learn a scale, a
    shift or a direction; one number in it that is not finite spreads to all that follows.

    Criterion: any number in a tensor of such a norm that is not finite. The norms are known by
    their class, by Weight and Spectral Norm's names, or as one-dimensional weights of what is
    called a norm or ln. Source: IEEE 754, by which NaN and infinity survive every sum.

    Fix: go back to a checkpoint whose weights are finite; look at the loss and at gradient
    clipping.
    """
    others = {norm.name for norm in network.other_norms}
    for layer in network.layers:
        if layer.plain_norm and layer.name not in others:
            tensors = {"weight": layer.weight, "bias": layer.bias}
            yield from _found(self, layer.name, layer.kind.value, tensors)
    for norm in network.other_norms:
        yield from _found(self, norm.name, norm.kind.value, norm.tensors)


def _found(
    self: Rule[Network, Finding], name: str, kind: str, tensors: object
) -> Iterator[Finding]:
    assert isinstance(tensors, dict)
    bad = {
        role: int((~np.isfinite(tensor.astype(np.float64))).sum())
        for role, tensor in tensors.items()
        if tensor is not None
    }
    where = " and ".join(f"{count(n, 'number')} of {role}" for role, n in bad.items() if n)
    if where:
        yield self.finding(
            Severity.ERROR, name, f"NaN or infinity in {where} of this {kind}", _FIX,
            numbers=sum(bad.values()),
        )  # fmt: skip
