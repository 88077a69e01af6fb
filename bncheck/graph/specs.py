"""What an operation is to the planner: how a per-channel map on one side looks from the other.

What has no such description is `Opaque`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bncheck.graph.linear import Linear
from bncheck.graph.weighted import Axes, Weighted


@dataclass(frozen=True, slots=True)
class Kernel:
    """What slides over a map: along each axis its places, their gaps, and its steps.

    What it does follows from what it sees, and from how far the borders are away, alone.
    """

    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    gaps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conv(Weighted):
    """A convolution of inputs x, weight [out, in/groups, ...], bias.

    `centre` is the place of the kernel that reads the very position of the output, where there is
    one: with steps of 1, an odd kernel and as much padding on either side. With `samples`, the name
    of their number, each has a weight [out, in/groups, ...] and a bias of its own.
    """

    groups: int
    pads_with_zeros: bool
    centre: tuple[int, ...] | None = None
    samples: str = ""
    kernel: Kernel | None = None

    def axes_of(self, weight: int, result: int) -> tuple[Axes, Axes]:
        """An image may have no batch."""
        axis = 1 - (weight or result) + bool(self.samples)
        return (axis,), (axis,)

    def channels_of(self, weight: Sequence[int]) -> tuple[int, int] | None:
        """Of [out, in/groups, ...]."""
        return weight[1] * self.groups, weight[0]


@dataclass(frozen=True, slots=True)
class ConvTranspose(Weighted):
    """A transposed convolution of inputs x, weight [in, out/groups, ...], bias.

    `tiles`: the kernel equals the stride, with no padding, so each output depends on one input
    position.
    """

    groups: int
    tiles: bool
    stride: tuple[int, ...] = ()
    kernel: Kernel | None = None

    def axes_of(self, weight: int, result: int) -> tuple[Axes, Axes]:
        """An image may have no batch."""
        axis = 1 - (weight or result)
        return (axis,), (axis,)

    def channels_of(self, weight: Sequence[int]) -> tuple[int, int] | None:
        """Of [in, out/groups, ...]."""
        return weight[0], weight[1] * self.groups


@dataclass(frozen=True, slots=True)
class Recurrent(Weighted):
    """A recurrent layer of inputs x, weight [..., inputs] and bias [...] of its first product.

    Without `shifts` it has no bias.
    """

    shifts: bool
    takes_result = False
    unit = "features"

    def channels_of(self, weight: Sequence[int]) -> tuple[int, int] | None:
        """Its result is that of the first product alone."""
        return weight[-1], math.prod(weight[:-1])


@dataclass(frozen=True, slots=True)
class Bilinear(Weighted):
    """y[o] = x A[o] z + b[o], of inputs x, weight [out, x, z], bias, z."""

    unit = "features"

    def channels_of(self, weight: Sequence[int]) -> tuple[int, int] | None:
        """Of x and of y."""
        return weight[1], weight[0]


@dataclass(frozen=True, slots=True)
class Lookup(Weighted):
    """Rows of a table: an embedding of inputs indices, weight [rows, features].

    Or sums, means or largest numbers of rows: with `orders` the largest. `rows` is the number of
    rows in a sum. `uneven` says why a shift of all rows would not shift such a result.
    """

    uneven: str = ""
    orders: bool = False
    rows: int = 1
    takes_input = False
    unit = "features"


@dataclass(frozen=True, slots=True)
class Rescaled(Weighted):
    """What normalises each sample and ends with a product and a sum along `axes`: LayerNorm.

    Of inputs x, weight, bias. Without `shifts` it has no place for the latter: RMSNorm. `share` is
    the number of consecutive channels that share one number.
    """

    axes: tuple[int, ...]
    shifts: bool = True
    share: int = 1
    takes_input = False

    def axes_of(self, weight: int, result: int) -> tuple[Axes, Axes]:
        """Those that its weight has."""
        return self.axes, self.axes

    def channels_of(self, weight: Sequence[int]) -> tuple[int, int] | None:
        """One each."""
        return (math.prod(weight),) * 2


#: Why an InstanceNorm stays.
ALONE = "it normalises each image with its own statistics"
ALONE_HINT = "leave it, or try --norms all, which folds its scale and shift where these can go"


@dataclass(frozen=True, slots=True)
class Norm(Weighted):
    """A BatchNorm or InstanceNorm of inputs x, weight, bias, mean, var.

    `uses_batch` where it normalises with statistics of its input, or of each position, and so is
    not one map of each channel; `why` says why, `hint` what would change that.
    """

    eps: float
    uses_batch: bool
    why: str = ""
    hint: str = ""

    def axes_of(self, weight: int, result: int) -> tuple[Axes, Axes]:
        """Behind the batch."""
        return (1 - result,), (1 - result,)

    def channels_of(self, weight: Sequence[int]) -> tuple[int, int] | None:
        """One each."""
        return (math.prod(weight),) * 2

    @property
    def rescales(self) -> bool:
        """Whether it normalises each sample, so that only its affine is a map."""
        return self.why == ALONE


@dataclass(frozen=True, slots=True)
class Add:
    """factors[0] * x + factors[1] * y, broadcasting."""

    factors: tuple[float, float]

    @property
    def total(self) -> float:
        """What x becomes a multiple of where y is x, too."""
        return self.factors[0] + self.factors[1]


@dataclass(frozen=True, slots=True)
class Mul:
    """x * y, or x / y; broadcasting."""

    divides: bool = False


@dataclass(frozen=True, slots=True)
class Larger:
    """The larger, or the smaller, of x and y at each place; broadcasting."""


@dataclass(frozen=True, slots=True)
class Bounded(Larger):
    """The larger of x and `low`, or the smaller of x and `high`, where the other is infinite."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Identity:
    """The same numbers: dropout in eval, clone, a cast between floating dtypes."""


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same numbers in the same order, in another shape."""


@dataclass(frozen=True, slots=True)
class Transpose:
    """Axis i of the output is axis order[i] of the input."""

    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Expand:
    """Axes of size 1 repeated, and new axes in front."""


@dataclass(frozen=True, slots=True)
class Gather:
    """Elements picked along axes: flipped, rolled, repeated, selected, shuffled.

    `picks` has, for each such axis, which input position each output position shows; None where
    that is not known, and only maps that do not vary along the axis can pass. `unfolds` is the
    number of axes that become of the only one, where the positions are a table of that rank, and
    their sizes where they are known.
    """

    picks: tuple[tuple[int, tuple[int, ...] | None], ...]
    unfolds: tuple[int | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen(Gather):
    """Elements picked at places that are computed, perhaps from the elements themselves.

    `varies`: they are known, and along the axis whose places are None not the same everywhere.
    """

    varies: bool = False


@dataclass(frozen=True, slots=True)
class Concat:
    """All inputs joined along an axis; `stacks` where it is a new one."""

    axis: int
    stacks: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """Output i is `parts[i]` of the input's axis; `drops` where the axis disappears."""

    axis: int
    parts: tuple[slice, ...]
    drops: bool = False


@dataclass(frozen=True, slots=True)
class Average:
    """A weighted mean over these axes, times `gain`: pooling, mean, sum, interpolation.

    `gain` is what the weights sum to; None where that is not known or differs from place to place,
    as where padded zeros take part. `drops` where the axes disappear. `kernel` is there where the
    same is done at all places, whatever the sizes.
    """

    axes: tuple[int, ...]
    gain: float | None = 1.0
    drops: bool = False
    kernel: Kernel | None = None


@dataclass(frozen=True, slots=True)
class RunningSum(Average):
    """Sums of ever more elements along these axes; `gain` is None."""


@dataclass(frozen=True, slots=True)
class Attended(Average):
    """Means along these axes by weights that are computed and sum to 1: an attention's values.

    `gain` is None where a mask that is not known may leave nothing to take the mean of.
    """


@dataclass(frozen=True, slots=True)
class Maximum:
    """The largest, or the smallest, of some elements along these axes; `kernel` as of Average."""

    axes: tuple[int, ...]
    drops: bool = False
    kernel: Kernel | None = None


@dataclass(frozen=True, slots=True)
class Ordered(Maximum):
    """Some elements along these axes, or all, chosen by their order: sorted ones, a median."""


@dataclass(frozen=True, slots=True)
class Pad:
    """New elements along these axes: copies of old ones, or `value` where that is given.

    `amounts` says how many are before and behind along each of the axes, where that is known.
    """

    axes: tuple[int, ...]
    value: float | None
    amounts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PixelShuffle:
    """(N, C*r*r, H, W) -> (N, C, H*r, W*r); `inverse` the other way round.

    Channel c of the small side is c*r*r to (c+1)*r*r of the large one, or every C-th one
    (`depth_last`).
    """

    factor: int
    inverse: bool = False
    depth_last: bool = False


@dataclass(frozen=True, slots=True)
class Rectifier:
    """f(a * x) = a * f(x) for positive a: ReLU, leaky ReLU, PReLU, the absolute value.

    `negative` is what negative numbers are multiplied by, None where input 1 says it, or nothing;
    `positive` what others are.
    """

    name: str
    negative: float | None = 0.0
    positive: float = 1.0


@dataclass(frozen=True, slots=True)
class Pointwise:
    """Another function of each number; no map passes it. `name` is its key in graph/pointwise.py.

    `settings` are the numbers that the function takes beside its input.
    """

    name: str
    settings: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ShapeOf:
    """Reads nothing but the shape of its input, or checks something about it."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """Anything else."""

    name: str


Spec: TypeAlias = (
    Conv | ConvTranspose | Linear | Recurrent | Bilinear | Lookup | Rescaled | Norm | Add | Mul
    | Larger | Bounded | Identity | Reshape | Transpose | Expand | Gather | Chosen | Concat | Split
    | Average | RunningSum | Attended | Maximum | Ordered | Pad | PixelShuffle | Rectifier
    | Pointwise | ShapeOf | Opaque
)  # fmt: skip
