"""BN121."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.layers.other_norms import OtherNorm, matrices
from bncheck.reading.kinds import NormKind
from bncheck.rules.rule import Network, Rule, rule

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: How far a norm may be from 1, and in formats of 8 bits' precision.
_TOLERANCE: Final = 1e-3
_COARSE: Final = 5e-3
_ERROR, _WARNING = 0.5, 0.8
#: Vectors are of these weights where u points along W v to within this.
_CONSISTENT: Final = 0.99
_ITERATIONS: Final = 50


@rule("BN121", "spectral-norm-vectors", Severity.ERROR, Severity.WARNING)
def spectral_vectors(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """The vectors of a Spectral Norm do not belong to its weight.

    The layer computes with W / sigma, sigma = u' W v. Each step of training improves u and v by a
    power iteration; eval() uses them as they are. An average of several u (EMA, SWA over buffers)
    is no unit vector, and vectors of other weights give a sigma that is too small: the layer's
    gain, and with it the Lipschitz constant that the norm is there to bound, grows by as much.

    Criterion: abs(norm(u) - 1) > 1e-3 (error; 5e-3 in bfloat16). Or sigma / s below .5 (error), .5
    to .8 (warning), with s the largest singular value by 50 power iterations, a lower bound of it;
    live layers lag down to .87. Not where u is W v of these very weights (training has just begun),
    nor where the weights are within torch's initial bounds, 1/sqrt(fan_in). Source: Miyato et al.
    2018, https://arxiv.org/abs/1802.05957, Algorithm 1.

    Fix: run some batches in train(), which repairs u and v and leaves W alone; average weights
    without the buffers weight_u and weight_v.
    """
    for norm in network.other_norms:
        if norm.kind is not NormKind.SPECTRAL:
            continue
        tensors = {role: array.astype(np.float64) for role, array in norm.tensors.items()}
        if all(np.isfinite(array).all() for array in tensors.values()):
            yield from _judged(self, norm, tensors)


def _judged(
    self: Rule[Network, Finding], norm: OtherNorm, tensors: dict[str, Floats]
) -> Iterator[Finding]:
    u, fix = tensors["u"].reshape(-1), "run some batches in train(): it repairs u and v alone"
    length = float(np.linalg.norm(u))
    coarse = norm.tensors["u"].dtype.kind == "V"
    if abs(length - 1) > (_COARSE if coarse else _TOLERANCE):
        yield self.finding(
            Severity.ERROR, norm.name,
            f"its vector u has the length {length:.4g}, not 1: an average of several was taken",
            fix, length=length,
        )  # fmt: skip
        return
    ratio = _ratio(tensors["orig"], u, tensors.get("v"))
    if ratio is not None and ratio < _WARNING:
        yield self.finding(
            Severity.ERROR if ratio < _ERROR else Severity.WARNING, norm.name,
            f"its vectors give {ratio:.2f} of the weight's largest singular value (live ones .87 "
            "and more): they belong to other weights", fix, ratio=ratio,
        )  # fmt: skip


def _ratio(weight: Floats, u: Floats, v: Floats | None) -> float | None:
    """sigma / s; None where it cannot be judged."""
    if v is None or weight.ndim < 2 or not weight.any():
        return None
    v = v.reshape(-1)
    best = None
    for matrix in matrices(weight, u.size):
        if matrix.shape[1] != v.size:
            continue
        along = matrix @ v
        size = float(np.linalg.norm(along))
        if size and float(u @ along) / size > _CONSISTENT:
            return None
        if np.abs(matrix).max() <= (1 + 1e-6) / np.sqrt(matrix.shape[1]):
            return None
        ratio = float(u @ along) / _largest(matrix, u)
        best = ratio if best is None else max(best, ratio)
    return best


def _largest(matrix: Floats, u: Floats) -> float:
    """A lower bound of the largest singular value, near it."""
    start = np.random.default_rng(0).standard_normal(u.size)
    largest = 0.0
    for x in (u, start / np.linalg.norm(start)):
        for _ in range(_ITERATIONS):
            y = x @ matrix
            y /= max(float(np.linalg.norm(y)), 1e-300)
            x = matrix @ y
            size = float(np.linalg.norm(x))
            x = x / max(size, 1e-300)
            largest = max(largest, size)
    return largest
