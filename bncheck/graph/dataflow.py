"""The one graph that a torch.export program and an ONNX model become.

It holds calls, not modules: a module that is called twice is two operations that share constants.
Operations are reduced to what the planner must know of them: specs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bncheck.graph.specs import Norm, Opaque, ShapeOf, Spec

Floats: TypeAlias = NDArray[np.float64]

#: What to do about a call whose result nobody reads.
UNUSED = "take it out of the model"

#: A size that is not known is the name of its symbol, or "?".
Dim: TypeAlias = int | str
Shape: TypeAlias = "tuple[Dim, ...]"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor between calls. `constant` computes its numbers in float64 where they are fixed.

    `label` is the name that a parameter has in the user's model; `stored` gives its numbers in
    their own dtype where they need not be computed. `overridable`: it has numbers, but a caller of
    the model may give others. `quantised`: they come from small integers, which stay. `sparse`:
    they are stored so, and stay. `made_from`: the labels of the parameters that they are computed
    from.
    """

    name: str
    shape: Shape | None
    dtype: str
    constant: Callable[[], Floats] | None = None
    label: str = ""
    stored: Callable[[], NDArray[np.generic]] | None = None
    overridable: bool = False
    quantised: bool = False
    sparse: bool = False
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Op:
    """A call. `label` is the module that made it, or the operation's own name."""

    name: str
    spec: Spec
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    label: str
    kind: str

    @property
    def called(self) -> str:
        """What people call it: conv1 (conv2d)."""
        return f"{self.label} ({self.kind})"

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
    #: Whether modules make the calls, so that calls with the same parameters are of one module. In
    #: a file of nodes each call is a layer of its own.
    of_modules: bool = False

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


def without_idle(ops: Sequence[Op], outputs: Collection[str]) -> Iterator[Op]:
    """Calls that no output needs, as of a head that was cut off, read nothing; a norm is named."""
    needed = set(outputs)
    for op in reversed(ops):
        if not needed.isdisjoint(op.outputs):
            needed.update(name for name in op.inputs if name)
    for op in ops:
        if not needed.isdisjoint(op.outputs):
            yield op
        elif isinstance(op.spec, Norm):
            unused = replace(op.spec, uses_batch=True, why="its output is unused", hint=UNUSED)
            yield replace(op, spec=unused, inputs=(None, *op.inputs[1:]))
        else:
            yield replace(op, spec=Opaque(op.kind), inputs=())
