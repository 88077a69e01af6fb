"""The one graph that a torch.export program and an ONNX model become.

It holds calls, not modules: a module that is called twice is two operations that share constants.
Operations are reduced to what the planner must know of them: how a per-channel affine map on one
side looks from the other. What has no such description is `Opaque`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

#: A size that is not known is the name of its symbol, or "?".
Dim: TypeAlias = int | str
Shape: TypeAlias = "tuple[Dim, ...]"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor between calls. `constant` computes its numbers in float64 where they are fixed.

    `label` is the name that a parameter has in the user's model; `stored` gives its numbers in
    their own dtype where they need not be computed. `overridable`: it has numbers, but a caller of
    the model may give others.
    """

    name: str
    shape: Shape | None
    dtype: str
    constant: Callable[[], Floats] | None = None
    label: str = ""
    stored: Callable[[], NDArray[np.generic]] | None = None
    overridable: bool = False


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of inputs x, weight [out, in/groups, ...], bias.

    `centre` is the place of the kernel that reads the very position of the output, where there is
    one: with steps of 1, an odd kernel and as much padding on either side.
    """

    groups: int
    pads_with_zeros: bool
    centre: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ConvTranspose:
    """A transposed convolution of inputs x, weight [in, out/groups, ...], bias.

    `tiles`: the kernel equals the stride, with no padding, so each output depends on one input
    position. `stride` is given then.
    """

    groups: int
    tiles: bool
    stride: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Linear:
    """alpha * x @ weight + beta * bias; `output_first` where the weight is [out, in].

    `axes` are those of the features in its input and in its output, from the end.
    """

    output_first: bool
    alpha: float = 1.0
    beta: float = 1.0
    axes: tuple[int, int] = (-1, -1)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rows of a table: an embedding of inputs indices, weight [rows, features]."""


@dataclass(frozen=True, slots=True)
class Rescaled:
    """What normalises each sample and ends with a product and a sum along `axis`: LayerNorm.

    Of inputs x, weight, bias.
    """

    axis: int


#: Why an InstanceNorm stays.
ALONE = "it normalises each image with its own statistics"


@dataclass(frozen=True, slots=True)
class Norm:
    """A BatchNorm or InstanceNorm of inputs x, weight, bias, mean, var.

    `uses_batch` where it normalises with statistics of its input, or of each position, and so is
    not one map of each channel; `why` says why, `hint` what would change that.
    """

    eps: float
    uses_batch: bool
    why: str = ""
    hint: str = ""


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
    that is not known, and only maps that do not vary along the axis can pass.
    """

    picks: tuple[tuple[int, tuple[int, ...] | None], ...]


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
    as where padded zeros take part. `drops` where the axes disappear.
    """

    axes: tuple[int, ...]
    gain: float | None = 1.0
    drops: bool = False


@dataclass(frozen=True, slots=True)
class Maximum:
    """The largest, or the smallest, of some elements along these axes."""

    axes: tuple[int, ...]
    drops: bool = False


@dataclass(frozen=True, slots=True)
class Pad:
    """New elements along these axes: copies of old ones, or `value` where that is given."""

    axes: tuple[int, ...]
    value: float | None


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
    """f(a * x) = a * f(x) for positive a: ReLU, leaky ReLU, PReLU, the absolute value."""

    name: str


@dataclass(frozen=True, slots=True)
class ShapeOf:
    """Reads nothing but the shape of its input, or checks something about it."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """Anything else."""

    name: str


Spec: TypeAlias = (
    Conv | ConvTranspose | Linear | Lookup | Rescaled | Norm | Add | Mul | Identity | Reshape
    | Transpose | Expand | Gather | Concat | Split | Average | Maximum | Pad | PixelShuffle
    | Rectifier | ShapeOf | Opaque
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Op:
    """A call. `label` is the module that made it, or the operation's own name."""

    name: str
    spec: Spec
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    label: str
    kind: str

    def input(self, slot: int) -> str | None:
        """The value in that place, or None."""
        return self.inputs[slot] if slot < len(self.inputs) else None


@dataclass(frozen=True, slots=True)
class Use:
    """Operation `op`, by its place in the graph, takes a value as its input `slot`."""

    op: int
    slot: int


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A normalisation in a graph inside a call, such as a branch, which is left as it is."""

    name: str
    kind: str
    where: str


@dataclass(frozen=True)
class Graph:
    """Operations in an order in which they can run."""

    ops: tuple[Op, ...]
    values: Mapping[str, Value]
    outputs: frozenset[str]
    enclosed: tuple[Enclosed, ...] = field(default=())
    #: "inner graph" for one inside a call, whose inputs may be values of the graph around it.
    what: str = "model"

    @cached_property
    def producers(self) -> dict[str, int]:
        """Which operation makes a value; inputs and parameters have none."""
        return {name: i for i, op in enumerate(self.ops) for name in op.outputs}

    @cached_property
    def uses(self) -> dict[str, list[Use]]:
        """Where a value's numbers are read. Who asks for its shape alone does not count."""
        found: dict[str, list[Use]] = {}
        for index, op in enumerate(self.ops):
            if not isinstance(op.spec, ShapeOf):
                for slot, name in enumerate(op.inputs):
                    if name is not None:
                        found.setdefault(name, []).append(Use(index, slot))
        return found

    def shape(self, name: str | None) -> Shape | None:
        """A value's shape, None where nothing is known."""
        value = self.values.get(name) if name is not None else None
        return value.shape if value else None

    def is_constant(self, name: str | None) -> bool:
        """Whether a value's numbers are fixed."""
        return name is not None and name in self.values and bool(self.values[name].constant)

    def constant(self, name: str | None) -> Floats | None:
        """The numbers of a fixed value in float64."""
        value = self.values.get(name) if name is not None else None
        return value.constant() if value and value.constant else None

    def stored(self, name: str | None) -> NDArray[np.generic] | None:
        """The numbers of a stored value in its own dtype."""
        value = self.values.get(name) if name is not None else None
        return value.stored() if value and value.stored else None

    def norms(self) -> Iterator[tuple[int, Op]]:
        """The normalisation calls."""
        for index, op in enumerate(self.ops):
            if isinstance(op.spec, Norm):
                yield index, op
