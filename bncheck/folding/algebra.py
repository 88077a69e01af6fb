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
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bncheck.graph.dataflow import Floats
from bncheck.graph.linear import Linear
from bncheck.graph.specs import Conv, ConvTranspose

LinearCall: TypeAlias = Conv | ConvTranspose | Linear

#: A number of a map that may be anything, since that part of x is unused. It
#: is NaN so that it stays free in every composition: FREE * a + b is FREE.
FREE: Final = float("nan")


def is_free(numbers: Floats) -> NDArray[np.bool_]:
    """Where the numbers of a map may be anything."""
    return np.isnan(numbers)


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift. Both arrays have x's rank and broadcast against it.

    Which axis is the channel's is so told by the shape, and reshaping the map is reshaping the
    arrays. Both are FREE where x is unused.
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
    """The map of an unused value."""
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


def scaled_bias(bias: Floats | None, after: Affine) -> Floats | None:
    """A bias, or none, with what follows it; none where it would be zero."""
    return _plus(None if bias is None else bias * after.scale, after.shift)


def _plus(bias: Floats | None, shift: Floats) -> Floats | None:
    if bias is None:
        return shift if np.any(shift) else None
    return bias + shift


@dataclass(frozen=True)
class Kernel:
    """A linear call's weight as [groups, outputs, inputs, taps], and its bias, or none.

    Whatever its layout, the call is y[g, o] = sum_ik weight[g, o, i, k] x_k[g, i] + bias[g, o]
    with x_k the input at the place of tap k; a matrix has one group and one tap.
    """

    weight: Floats
    bias: Floats | None

    @classmethod
    def of(cls, spec: LinearCall, weight: Floats, bias: Floats | None) -> Kernel:
        """From the numbers of a call."""
        if isinstance(spec, Linear):
            groups, outputs, inputs = spec.sizes(weight.shape)
            moved = spec.alpha * weight.transpose(spec.order)
            if bias is not None:
                # By row, too, where the number of rows is fixed.
                bias = np.broadcast_to(bias * spec.beta, (*bias.shape[:-1], groups * outputs))
            return cls(moved.reshape(groups, outputs, inputs, 1), bias)
        first, second = weight.shape[:2]
        grouped = weight.reshape(spec.groups, first // spec.groups, second, -1)
        return cls(grouped.swapaxes(1, 2) if isinstance(spec, ConvTranspose) else grouped, bias)

    def laid_out(self, spec: LinearCall, shape: tuple[int, ...]) -> Floats:
        """The weight as such a call has it."""
        if isinstance(spec, Linear):
            moved = self.weight.reshape([shape[axis] for axis in spec.order])
            return moved.transpose(np.argsort(spec.order))
        is_conv = isinstance(spec, Conv)
        return (self.weight if is_conv else self.weight.swapaxes(1, 2)).reshape(shape)

    def laid_out_bias(self, spec: LinearCall, shape: tuple[int, ...]) -> Floats | None:
        """The bias as it is added to the result of such a call with a weight of that shape."""
        if self.bias is None or self.bias.ndim > 1 or not isinstance(spec, Linear):
            return self.bias
        sizes = {o: shape[axis] for axis in spec.order if (o := spec.sides[axis][1]) is not None}
        wide = self.bias.reshape(list(sizes.values())).transpose(np.argsort(list(sizes)))
        return wide.reshape([sizes.get(axis, 1) for axis in range(min(sizes, default=0), 0)])

    def after(self, map_: Affine) -> Kernel:
        """With what follows."""
        scale = map_.scale.reshape(*self.weight.shape[:2], 1, 1)
        return Kernel(self.weight * scale, scaled_bias(self.bias, map_))

    def before(self, map_: Affine) -> Kernel:
        """With what precedes a call whose every output reads each of its taps."""
        groups, _, inputs, _ = self.weight.shape
        added = np.einsum("goik,gi->go", self.weight, map_.shift.reshape(groups, inputs))
        scale = map_.scale.reshape(groups, 1, inputs, 1)
        return Kernel(self.weight * scale, _plus(self.bias, added.reshape(-1)))

    def beside(self, map_: Affine, tap: int) -> Kernel:
        """With a map of its input added; `tap` reads the very position of the output."""
        weight, channel = self.weight.copy(), np.arange(map_.scale.size)
        group, place = np.divmod(channel, self.weight.shape[1])
        weight[group, place, place, tap] += map_.scale
        return Kernel(weight, _plus(self.bias, map_.shift))

    def as_tiles(self) -> Kernel:
        """One tap to as many more outputs as there were taps: docs/folding.md, "Tiling".

        A pixel shuffle of its result is what a transposed convolution gives whose kernel is its
        stride, in any number of dimensions.
        """
        groups, _, inputs, taps = self.weight.shape
        weight = self.weight.swapaxes(2, 3).reshape(groups, -1, inputs, 1)
        return Kernel(weight, None if self.bias is None else np.repeat(self.bias, taps))


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
class FloatRange:
    """The range of a floating dtype: its largest and its smallest normal number, and how many
    binary digits a number has."""

    largest: float
    tiny: float
    digits: int


def limits_of(dtype: str) -> FloatRange:
    """The range of the dtype of that name."""
    import ml_dtypes

    info: Any = ml_dtypes.finfo(numpy_dtype(dtype))  # type: ignore[no-untyped-call]
    return FloatRange(float(info.max), float(info.smallest_normal), int(info.nmant))


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """NumPy's dtype of that name, bfloat16 included."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
