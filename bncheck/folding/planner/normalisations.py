"""A normalisation, and the affine map that it is: docs/folding.md, "The map of a normalisation"."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.folding.algebra import Affine, identity, norm_affine
from bncheck.folding.planner.families import Family, is_fused
from bncheck.folding.planner.maps import UNKNOWN, Stuck, spreads
from bncheck.graph.dataflow import Dim, Floats, Graph, Op, Shape
from bncheck.graph.specs import Add, Mul, Norm, Opaque, Rescaled, Spec

_INSPECT = "see `bncheck inspect`"
_QUANTISES = re.compile("quant|_fq_", re.IGNORECASE)
_DRAWS = re.compile("rand|normal|uniform|bernoulli|multinomial", re.IGNORECASE)


class Slot(IntEnum):
    """Which input of a normalisation is what; linear calls have the first three."""

    DATA = 0
    WEIGHT = 1
    BIAS = 2
    MEAN = 3
    VARIANCE = 4


@dataclass(frozen=True)
class Normalisation:
    """A normalisation, or a multiplication and an addition that are one: calls and their name.

    `bare`: only the affine at its end is a map that can go, and its call stays. `module`: the name
    of the first call of the same module.
    """

    name: str
    kind: str
    ops: tuple[int, ...]
    family: Family = Family.BATCH
    bare: bool = False
    module: str = ""

    @property
    def only_forwards(self) -> bool:
        """Whether what makes its input cannot take it over, since it normalises each sample."""
        return self.bare or self.family in (Family.LAYER, Family.RMS, Family.GROUP)

    @property
    def of_weight(self) -> bool:
        """Whether it normalises a weight; its call is the one that reads that."""
        return self.family in (Family.WEIGHT, Family.SPECTRAL)

    @property
    def first(self) -> int:
        """The call that reads its input."""
        return self.ops[0]

    @property
    def last(self) -> int:
        """The call that makes its output."""
        return self.ops[-1]


def data_slot(graph: Graph, op: Op) -> int:
    """Which operand of a normalisation, or of x + c or c * x, is x."""
    return int(isinstance(op.spec, (Add, Mul)) and graph.is_constant(op.inputs[0]))


def elementwise_map(graph: Graph, op: Op, edit: Affine | None = None) -> tuple[int, Affine] | None:
    """x + c, x * c, c - x, x / c with a constant c, as the slot of x and a map of it.

    `edit` is what has become of c.
    """
    fixed = [graph.is_constant(name) for name in op.inputs[:2]]
    if not isinstance(op.spec, (Add, Mul)) or len(fixed) != 2 or sum(fixed) != 1:
        return None
    slot = fixed.index(False)
    number = graph.constant(op.inputs[1 - slot])
    shape = graph.shape(op.inputs[slot])
    if number is not None and edit is not None:
        number = np.asarray(edit.scale * number + edit.shift)
    if shape is None or number is None or not _leaves_form(graph, op, slot, number):
        return None
    number = number.reshape((1,) * (len(shape) - number.ndim) + number.shape)
    one = identity(len(shape))
    if isinstance(op.spec, Add):
        factors = op.spec.factors
        return slot, Affine(one.scale * factors[slot], number * factors[1 - slot])
    if op.spec.divides and slot == 1:  # c / x
        return None
    with np.errstate(divide="ignore"):
        scale = 1.0 / number if op.spec.divides else number
    return (slot, Affine(scale, one.shift)) if np.all(np.isfinite(scale)) else None


def no_map(graph: Graph, op: Op) -> Stuck:
    """Why a product with a constant is none that elementwise_map gives."""
    if isinstance(op.spec, Mul) and op.spec.divides and graph.is_constant(op.inputs[0]):
        return Stuck(f"{op.called} divides a constant by it")
    number = graph.constant(op.inputs[1])
    if isinstance(op.spec, Mul) and op.spec.divides and number is not None and not np.all(number):
        return Stuck(f"{op.called} divides it by 0")
    return Stuck(f"the constant of {op.called} gives it another shape or dtype")


def _leaves_form(graph: Graph, op: Op, slot: int, number: Floats) -> bool:
    """Whether the result of an operation with a constant has its operand's shape and dtype."""
    name, result = op.inputs[slot], op.outputs[0]
    assert name is not None
    shape = graph.shape(name)
    fits = shape is not None and shape == graph.shape(result) and spreads(number.shape, shape)
    return fits and graph.values[name].dtype == graph.values[result].dtype


def not_constant(graph: Graph, name: str, what: str) -> Stuck:
    """Why a weight that a fold would change cannot be changed."""
    if graph.values[name].quantised:
        return Stuck(f"{what} is quantised and stays as it is", "fold first, then quantise")
    if graph.values[name].sparse:
        return Stuck(f"{what} is stored as a sparse tensor", "store it whole")
    if graph.producers.get(name) is None:
        return not_made(graph, name, what)
    maker = _known_alone(graph, name)
    if maker is not None and _QUANTISES.search(maker.kind):
        return Stuck(f"{what} is quantised by {maker.called}", "fold first, then quantise")
    if maker is not None and _DRAWS.match(maker.kind):
        return Stuck(f"{what} is drawn at random by {maker.called}")
    if maker is not None:
        return Stuck(
            f"{what} is computed by {maker.called} of stored numbers",
            f"fold before the {maker.kind} is put there, or store its result instead",
        )
    return Stuck(f"{what} is computed from the input")


def not_made(graph: Graph, name: str, what: str) -> Stuck:
    """Why a value that no call makes cannot change."""
    value = graph.values.get(name)
    if value is not None and value.overridable:
        return Stuck(
            f"{what} is also an input of the model, which a caller may override",
            "--freeze-inputs rules that out",
        )
    if value is not None and value.label:
        return Stuck(f"{what} changes while the model runs", "let no call write to it")
    return Stuck(f"{what} is an input of the {graph.what}")


def _known_alone(graph: Graph, name: str) -> Op | None:
    """The call that makes a value where nothing that it rests on is an input of the model.

    What picks one of its results does not count.
    """
    waiting, seen = [name], {name}
    while waiting:
        value = waiting.pop()
        index = graph.producers.get(value)
        stored = graph.is_constant(value) or bool(graph.values[value].label)
        if index is None and not stored:
            return None
        inputs = graph.ops[index].inputs if index is not None else ()
        more = {each for each in inputs if each is not None} - seen
        seen |= more
        waiting += more
    index = graph.producers.get(name)
    op = None if index is None else graph.ops[index]
    while op is not None and op.kind == "getitem" and op.inputs[0] in graph.producers:
        op = graph.ops[graph.producers[op.inputs[0]]]
    return op


def affine_of(graph: Graph, norm: Normalisation) -> Affine:
    """The map of a normalisation, with its channels on axis 1; Stuck where it has none."""
    op = graph.ops[norm.first]
    if norm.of_weight:
        return identity(len(graph.shape(op.outputs[0]) or ()))
    if norm.bare:
        return _affine_at_its_end(graph, op)
    if not isinstance(op.spec, Norm):
        found = identity(len(graph.shape(op.outputs[0]) or ()))
        for index in norm.ops:
            map_ = elementwise_map(graph, graph.ops[index])
            assert map_ is not None
            found = map_[1].after(found)
        return found
    if op.spec.uses_batch:
        raise Stuck(op.spec.why, op.spec.hint)
    shape = graph.shape(op.inputs[Slot.DATA])
    if shape is None or len(shape) < 2:
        raise Stuck("the rank of its input is not known", UNKNOWN)
    gamma, beta, mean, var = parameters_of(graph, op)
    assert mean is not None
    assert var is not None
    _check_sizes(shape[1:2], (gamma, beta, mean, var))
    if _is_corrupt(mean, var):
        raise Stuck(
            "its running statistics hold a NaN, an infinity or a negative variance", _INSPECT
        )
    scale, shift = norm_affine(gamma, beta, mean, var, op.spec.eps)
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        raise Stuck("its scale or shift is not a finite number", _INSPECT)
    sizes = (1, -1, *(1,) * (len(shape) - 2))
    return Affine(scale.reshape(sizes), shift.reshape(sizes))


def _affine_at_its_end(graph: Graph, op: Op) -> Affine:
    """gamma and beta of what normalises each sample."""
    if is_fused(op.kind):
        raise Stuck(
            f"{op.kind} is an operator of onnxruntime alone",
            "fold the model before onnxruntime's optimiser fuses its norms",
        )
    if isinstance(op.spec, Opaque):
        raise Stuck("its scale is not one number for each place of axes whose sizes are known")
    shape = graph.shape(op.outputs[0])
    if shape is None:
        raise Stuck("the rank of its input is not known", UNKNOWN)
    gamma, beta, *_ = parameters_of(graph, op)
    _check_sizes([shape[axis] for axis in channel_axes(op.spec)], (gamma, beta))
    one = identity(len(shape))
    sizes = channel_sizes(op.spec, shape)
    scale = one.scale if gamma is None else gamma.reshape(sizes)
    shift = one.shift if beta is None else beta.reshape(sizes)
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        raise Stuck("its scale or shift is not a finite number", _INSPECT)
    return Affine(scale, shift)


def _check_sizes(sizes: Sequence[Dim], parameters: Sequence[Floats | None]) -> None:
    """Raise where a file gives a norm parameters that do not have a number for each channel.

    `sizes` are those of the axes along which the channels lie.
    """
    found = {number.size for number in parameters if number is not None}
    known = [size for size in sizes if isinstance(size, int)]
    wanted = {math.prod(known)} if len(known) == len(sizes) else found
    if len(found) > 1 or found - wanted:
        raise Stuck("its parameters do not have a number for each channel", _INSPECT)


def channel_axes(spec: Spec | None) -> tuple[int, ...]:
    """The axes along which the affine of a norm lies."""
    return spec.axes if isinstance(spec, Rescaled) else (1,)


def channel_sizes(spec: Spec | None, shape: Shape) -> list[int]:
    """The shape of such an affine over a value of that shape: -1 for a single size."""
    axes = [axis % len(shape) for axis in channel_axes(spec)] if len(shape) > 1 else [0]
    sizes = [1] * len(shape)
    for axis in axes:
        size = shape[axis]
        sizes[axis] = size if isinstance(size, int) and len(axes) > 1 else -1
    return sizes


def parameters_of(graph: Graph, op: Op) -> Sequence[Floats | None]:
    """gamma, beta, mean and variance; None for what a normalisation lacks."""
    # A LayerNorm that a converter made of a BatchNorm computes its statistics, and the rest too.
    for slot in (Slot.MEAN, Slot.VARIANCE, Slot.WEIGHT, Slot.BIAS):
        name = op.input(slot)
        if name is not None and not graph.is_constant(name):
            role = slot.name.lower()
            role = f"running {role}" if slot in (Slot.MEAN, Slot.VARIANCE) else role
            stuck = not_constant(graph, name, f"its {role}")
            raise (
                stuck
                if stuck.hint
                else Stuck(stuck.reason, "leave it: it has no fixed scale and shift")
            )
    slots = (Slot.WEIGHT, Slot.BIAS, Slot.MEAN, Slot.VARIANCE)
    return [graph.constant(op.input(slot)) for slot in slots]


def _is_corrupt(mean: Floats, var: Floats) -> bool:
    return not (np.all(np.isfinite(mean)) and np.all(np.isfinite(var)) and np.all(var >= 0))


def refuse_corrupt(graph: Graph) -> None:
    """Raise for statistics with which the model computes nothing worth folding."""
    for _, op in graph.norms():
        mean, var = graph.constant(op.input(Slot.MEAN)), graph.constant(op.input(Slot.VARIANCE))
        if mean is not None and var is not None and _is_corrupt(mean, var):
            raise BncheckError(
                f"{op.label}: its running statistics hold a NaN, an infinity or a negative "
                "variance",
                f"fix it first; {_INSPECT}",
            )
