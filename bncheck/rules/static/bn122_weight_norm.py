"""BN122."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.layers.other_norms import OtherNorm
from bncheck.reading.kinds import NormKind
from bncheck.rules.rule import Network, Rule, rule


@rule("BN122", "weight-norm-direction", Severity.ERROR)
def weight_direction(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """A direction of a Weight Norm is zero, so its weight is 0/0.

    The layer computes with w = g v / norm(v), a row at a time. A row of v that is zero makes NaN of
    that channel, in train() and eval() alike. Pruning that sets v rather than g to zero does it,
    and weights that were never written.

    Criterion: a row of v, over the axes that g does not have, is zero in all numbers; or g and v
    have shapes that do not go together. Source: Salimans & Kingma 2016,
    https://arxiv.org/abs/1602.07868, equation 2.

    Fix: set g to zero instead and give v any other direction, or go back to an earlier checkpoint.
    """
    for norm in network.other_norms:
        if norm.kind is NormKind.WEIGHT:
            yield from _judged(self, norm)


def _judged(self: Rule[Network, Finding], norm: OtherNorm) -> Iterator[Finding]:
    g, v = norm.tensors["g"], norm.tensors["v"]
    kept = [axis for axis, length in enumerate(g.shape) if length != 1]
    if g.ndim not in (0, v.ndim) or len(kept) > 1 or g.size >= v.size:
        return  # two tensors that are only called so
    if any(g.shape[axis] != v.shape[axis] for axis in kept):
        yield self.finding(
            Severity.ERROR, norm.name,
            f"its g has the shape {g.shape} and its v {v.shape}, which do not go together",
            "load g and v of one checkpoint",
        )  # fmt: skip
        return
    axes = tuple(axis for axis in range(v.ndim) if axis not in kept)
    zero = int((~(v.astype(np.float64) != 0).any(axis=axes)).sum())
    if zero:
        said = f"{count(zero, 'row')} of v {'is' if zero == 1 else 'are'} zero"
        yield self.finding(
            Severity.ERROR, norm.name, f"{said}: the weight is 0/0 there",
            "set g to zero instead, or go back to an earlier checkpoint", rows=zero,
        )  # fmt: skip
