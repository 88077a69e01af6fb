"""The arithmetic of folding, in float64; casting to the parameters' dtype is the last step.

A normalisation in eval mode is y = s * x + t per channel with s = gamma / sqrt(var + eps) and
t = beta - mean * s. Around a linear map W x + b:

    after  (s, t):  (s W) x + (s b + t)
    before (s, t):  (W s) x + (b + W t)

(docs/folding.md, "What a call absorbs", "Beside" and "Tiling").
In float64 the order of the operations in s b + t does not matter for float32 weights: with b and
mean at 1e4 it is off by 1e-12, where float32 was off by 4e-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bncheck.graph.dataflow import Floats

#: A number of a map that may be anything, since nobody reads the part of x that it belongs to. It
#: is NaN so that it stays free in every composition: FREE * a + b is FREE.
FREE: Final = float("nan")


def is_free(numbers: Floats) -> NDArray[np.bool_]:
    """Where the numbers of a map may be anything."""
    return np.isnan(numbers)


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift. Both arrays have x's rank and broadcast against it.

    Which axis is the channel's is so told by the shape, and reshaping the map is reshaping the
    arrays. Both are FREE where nobody reads x.
    """

    scale: Floats
    shift: Floats

    def after(self, first: Affine) -> Affine:
        """This map applied to the result of `first`."""
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift)

    @property
    def shifts(self) -> bool:
        """Whether any shift differs from zero."""
        return bool(np.any((self.shift != 0) & ~is_free(self.shift)))


def identity(rank: int) -> Affine:
    """y = x."""
    one = (1,) * rank
    return Affine(np.ones(one), np.zeros(one))


def unconstrained(rank: int) -> Affine:
    """The map of a value that nobody reads."""
    free = np.full((1,) * rank, FREE)
    return Affine(free, free)


def norm_affine(
    gamma: Floats | None, beta: Floats | None, mean: Floats, var: Floats, eps: float
) -> tuple[Floats, Floats]:
    """The scale and shift of a normalisation with fixed statistics."""
    scale = 1.0 / np.sqrt(var + eps)
    if gamma is not None:
        scale = gamma * scale
    shift = -mean * scale
    return scale, shift if beta is None else beta + shift


@dataclass(frozen=True)
class Weights:
    """A linear call's weight and bias (None: it has none)."""

    weight: Floats
    bias: Floats | None


def _columns(vector: Floats, axis: int, rank: int) -> Floats:
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _plus(bias: Floats | None, shift: Floats) -> Floats | None:
    if bias is None:
        return shift if np.any(shift) else None
    return bias + shift


def _scaled(bias: Floats | None, scale: Floats, shift: Floats) -> Floats | None:
    return _plus(None if bias is None else bias * scale, shift)


def conv_after(w: Weights, scale: Floats, shift: Floats) -> Weights:
    """Fold what follows into a convolution, weight [out, in/groups, ...]."""
    weight = w.weight * _columns(scale, 0, w.weight.ndim)
    return Weights(weight, _scaled(w.bias, scale, shift))


def conv_before(w: Weights, groups: int, scale: Floats, shift: Floats) -> Weights:
    """Fold what precedes into a convolution that pads with nothing, weight [out, in/groups, ...].

    Output o reads the inputs of its own group, o // (out/groups).
    """
    out, inner = w.weight.shape[:2]
    grouped = w.weight.reshape(groups, out // groups, inner, -1)
    scales = scale.reshape(groups, 1, inner, 1)
    added = np.einsum("goik,gi->go", grouped, shift.reshape(groups, inner)).reshape(-1)
    return Weights((grouped * scales).reshape(w.weight.shape), _plus(w.bias, added))


def transposed_after(w: Weights, groups: int, scale: Floats, shift: Floats) -> Weights:
    """Fold what follows into a transposed convolution, weight [in, out/groups, ...]."""
    inputs, outer = w.weight.shape[:2]
    grouped = w.weight.reshape(groups, inputs // groups, outer, -1)
    weight = (grouped * scale.reshape(groups, 1, outer, 1)).reshape(w.weight.shape)
    return Weights(weight, _scaled(w.bias, scale, shift))


def transposed_before(w: Weights, scale: Floats) -> Weights:
    """Fold a preceding scale into a transposed convolution, weight [in, out/groups, ...]."""
    return Weights(w.weight * _columns(scale, 0, w.weight.ndim), w.bias)


def tiling_as_conv(w: Weights, groups: int, scale: Floats, shift: Floats) -> Weights:
    """A 1 x 1 convolution to r*r as many channels whose pixel shuffle is the same map.

    docs/folding.md, "Tiling": of a transposed convolution whose kernel is its stride, in any number
    of dimensions, with what precedes it.
    """
    inputs, outer = w.weight.shape[:2]
    inner = inputs // groups
    grouped = w.weight.reshape(groups, inner, outer, -1)
    places = grouped.shape[-1]
    added = np.einsum("giok,gi->gok", grouped, shift.reshape(groups, inner)).reshape(-1)
    scaled = grouped * scale.reshape(groups, inner, 1, 1)
    weight = scaled.transpose(0, 2, 3, 1).reshape(-1, inner, *(1,) * (w.weight.ndim - 2))
    bias = None if w.bias is None else np.repeat(w.bias, places)
    return Weights(weight, _plus(bias, added))


def linear_after(w: Weights, output_first: bool, scale: Floats, shift: Floats) -> Weights:
    """Fold what follows into a matrix."""
    weight = w.weight * (scale[:, None] if output_first else scale)
    return Weights(weight, _scaled(w.bias, scale, shift))


def rescaled_after(w: Weights, scale: Floats, shift: Floats) -> Weights:
    """Fold what follows into the weight and bias with which a normalisation ends."""
    return Weights(w.weight * scale, _scaled(w.bias, scale, shift))


def linear_before(w: Weights, output_first: bool, scale: Floats, shift: Floats) -> Weights:
    """Fold what precedes into a matrix."""
    matrix = w.weight if output_first else w.weight.T
    weight = matrix * scale
    return Weights(weight if output_first else weight.T, _plus(w.bias, matrix @ shift))


def conv_beside(w: Weights, centre: tuple[int, ...], scale: Floats, shift: Floats) -> Weights:
    """Add scale * x + shift to a convolution of x, weight [out, in/groups, ...] with out = in."""
    weight, out = w.weight.copy(), np.arange(w.weight.shape[0])
    weight[(out, out % w.weight.shape[1], *centre)] += scale
    return Weights(weight, _plus(w.bias, shift))


def linear_beside(w: Weights, scale: Floats, shift: Floats) -> Weights:
    """Add scale * x + shift to a product of x with a square matrix."""
    return Weights(w.weight + np.diag(scale), _plus(w.bias, shift))


@dataclass(frozen=True)
class Cast:
    """Numbers in their final dtype, and what happened to them on the way."""

    array: NDArray[np.generic]
    overflows: bool
    flushed: int


def cast(array: Floats, dtype: str) -> Cast:
    """Round once; flush subnormals, which make convolutions many times slower, to zero."""
    with np.errstate(over="ignore"):
        rounded = array.astype(numpy_dtype(dtype))
    return checked(rounded, dtype)


def scaled(weight: NDArray[np.generic], factors: Floats, dtype: str) -> Cast:
    """`weight * factors`, multiplied in float64 and rounded once, without a copy in float64."""
    out = np.empty(weight.shape, dtype=numpy_dtype(dtype))
    with np.errstate(over="ignore"):
        np.multiply(weight, factors, out=out, dtype=np.float64, casting="unsafe")
    return checked(out, dtype)


def checked(rounded: NDArray[np.generic], dtype: str) -> Cast:
    """Numbers that have their dtype, with what is wrong with them."""
    limits = limits_of(dtype)
    tiny: Any = rounded.dtype.type(limits.tiny)
    numbers: Any = rounded  # NumPy's types know no order among dtypes that are not named
    small = (numbers < tiny) & (numbers > -tiny) & (numbers != 0)
    flushed = int(np.count_nonzero(small))
    if flushed:
        rounded[small] = 0
    finite = not rounded.size or bool(np.isfinite(rounded.min()) and np.isfinite(rounded.max()))
    return Cast(rounded, not finite, flushed)


@dataclass(frozen=True)
class Limits:
    """The range of a floating dtype: its largest and its smallest normal number."""

    largest: float
    tiny: float


def limits_of(dtype: str) -> Limits:
    """The range of the dtype of that name."""
    import ml_dtypes

    info: Any = ml_dtypes.finfo(numpy_dtype(dtype))  # type: ignore[no-untyped-call]
    return Limits(float(info.max), float(info.smallest_normal))


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """NumPy's dtype of that name, bfloat16 included."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
