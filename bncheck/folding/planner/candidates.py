"""Which calls of a graph are normalisations, and the affine map that each of them is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.folding.algebra import Affine, identity, norm_affine
from bncheck.folding.planner.maps import Stuck
from bncheck.graph.dataflow import Add, Floats, Graph, Mul, Norm, Op

_INSPECT = "see `bncheck inspect`"


@dataclass(frozen=True)
class Candidate:
    """A normalisation, or a multiplication and an addition that are one: calls and their name."""

    name: str
    kind: str
    ops: tuple[int, ...]

    @property
    def first(self) -> int:
        """The call that reads its input."""
        return self.ops[0]

    @property
    def last(self) -> int:
        """The call that makes its output."""
        return self.ops[-1]


def find_candidates(graph: Graph) -> Iterator[Candidate]:
    """Normalisations, and multiplications followed by an addition, both by constants per channel.

    The latter is what FrozenBatchNorm computes.
    """
    taken: dict[str, int] = {}
    for index, op in enumerate(graph.ops):
        ops: tuple[int, ...] = ()
        if isinstance(op.spec, Norm):
            ops = (index,)
        elif isinstance(op.spec, Mul) and _is_per_channel(graph, op):
            uses = graph.uses.get(op.outputs[0], [])
            follower = graph.ops[uses[0].op] if len(uses) == 1 else op
            alone = len(uses) == 1 and op.outputs[0] not in graph.outputs
            if alone and isinstance(follower.spec, Add) and _is_per_channel(graph, follower):
                ops = (index, uses[0].op)
        if ops:
            label = graph.ops[ops[-1]].label
            taken[label] = taken.get(label, 0) + 1
            name = label if taken[label] == 1 else f"{label} ({taken[label]})"
            yield Candidate(name, op.kind if len(ops) == 1 else "mul+add", ops)


def _is_per_channel(graph: Graph, op: Op) -> bool:
    found = elementwise_map(graph, op)
    shape = graph.shape(op.outputs[0])
    if found is None or shape is None or len(shape) < 2:
        return False
    sizes = found[1].after(identity(len(shape))).scale.shape, found[1].shift.shape
    wide = {axis for size in sizes for axis, n in enumerate(size) if n > 1}
    return wide == {1}


def elementwise_map(graph: Graph, op: Op) -> tuple[int, Affine] | None:
    """x + c, x * c, c - x, x / c with a constant c, as the slot of x and a map of it."""
    fixed = [graph.is_constant(name) for name in op.inputs[:2]]
    if not isinstance(op.spec, (Add, Mul)) or len(fixed) != 2 or sum(fixed) != 1:
        return None
    slot = fixed.index(False)
    shape, out = graph.shape(op.inputs[slot]), graph.shape(op.outputs[0])
    number = graph.constant(op.inputs[1 - slot])
    name, result = op.inputs[slot], op.outputs[0]
    assert name is not None
    if shape is None or shape != out or number is None or number.ndim > len(shape):
        return None
    if graph.values[name].dtype != graph.values[result].dtype:
        return None
    number = number.reshape((1,) * (len(shape) - number.ndim) + number.shape)
    one = identity(len(shape))
    if isinstance(op.spec, Add):
        factors = op.spec.factors
        return slot, Affine(one.scale * factors[slot], number * factors[1 - slot])
    if op.spec.divides and slot == 1:
        return None
    with np.errstate(divide="ignore"):
        scale = 1.0 / number if op.spec.divides else number
    return (slot, Affine(scale, one.shift)) if np.all(np.isfinite(scale)) else None


def not_constant(graph: Graph, name: str, what: str) -> Stuck:
    """Why a weight that a fold would change cannot be changed."""
    if graph.values[name].overridable:
        return Stuck(
            f"{what} is an input of the model, too, which a caller may override",
            "--freeze-inputs says that nobody does",
        )
    return Stuck(f"{what} is computed from the input")


def affine_of(graph: Graph, candidate: Candidate) -> Affine:
    """The map of a normalisation, with its channels on axis 1; Stuck where it has none."""
    op = graph.ops[candidate.first]
    if not isinstance(op.spec, Norm):
        maps = [elementwise_map(graph, graph.ops[index]) for index in candidate.ops]
        assert maps[0] is not None
        assert maps[1] is not None
        return maps[1][1].after(maps[0][1])
    if op.spec.uses_batch:
        raise Stuck(op.spec.why, op.spec.hint)
    shape = graph.shape(op.inputs[0])
    if shape is None or len(shape) < 2:
        raise Stuck("the rank of its input is not known")
    given = [graph.constant(op.input(slot)) for slot in (1, 2, 3, 4)]
    for slot, role in enumerate(("weight", "bias", "running mean", "running variance"), 1):
        name = op.input(slot)
        if name is not None and given[slot - 1] is None:
            raise not_constant(graph, name, f"its {role}")
    gamma, beta, mean, var = given
    assert mean is not None
    assert var is not None
    if _is_corrupt(mean, var):
        raise Stuck(
            "its running statistics hold a NaN, an infinity or a negative variance", _INSPECT
        )
    scale, shift = norm_affine(gamma, beta, mean, var, op.spec.eps)
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        raise Stuck("its scale or shift is not a finite number", _INSPECT)
    sizes = (1, -1, *(1,) * (len(shape) - 2))
    return Affine(scale.reshape(sizes), shift.reshape(sizes))


def _is_corrupt(mean: Floats, var: Floats) -> bool:
    return not (np.all(np.isfinite(mean)) and np.all(np.isfinite(var)) and np.all(var >= 0))


def refuse_corrupt(graph: Graph) -> None:
    """Raise for statistics with which the model computes nothing worth folding."""
    for _, op in graph.norms():
        mean, var = graph.constant(op.input(3)), graph.constant(op.input(4))
        if mean is not None and var is not None and _is_corrupt(mean, var):
            raise BncheckError(
                f"{op.label}: its running statistics hold a NaN, an infinity or a negative "
                "variance",
                f"mend it first; {_INSPECT}",
            )
