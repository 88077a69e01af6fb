"""Which calls of a graph are norms: docs/folding.md, "The map of a normalisation", "All norms"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bncheck.folding.algebra import Affine, identity
from bncheck.folding.planner.families import (
    Family,
    Norms,
    computed_weight,
    family_of,
    normalises_samples,
)
from bncheck.folding.planner.normalisations import (
    Normalisation,
    Slot,
    data_slot,
    elementwise_map,
)
from bncheck.folding.planner.plain import is_plain
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.linear import Linear
from bncheck.graph.specs import Add, Conv, ConvTranspose, Identity, Mul, Norm, Opaque, Rescaled
from bncheck.graph.weighted import Weighted

_WEIGHT_KINDS = {Family.WEIGHT: "weight_norm", Family.SPECTRAL: "spectral_norm"}
#: What makes the number that a LayerNorm or RMSNorm divides by.
_ROOTS = frozenset({"rsqrt", "sqrt", "reciprocal", "pow"})


def find_normalisations(graph: Graph, norms: Norms = Norms.BATCH) -> Iterator[Normalisation]:
    """Normalisations, and multiplications followed by an addition, both by constants per channel.

    The latter is what FrozenBatchNorm computes. With `Norms.ALL` also those that normalise each
    sample, of which the affine alone is a map, in one call or written out.
    """
    taken: dict[str, int] = {}
    modules: dict[tuple[str, ...], str] = {}
    weighted = {op.label for op in graph.ops if isinstance(op.spec, Weighted)}
    for index in range(len(graph.ops)):
        ops, family, bare = _at(graph, index, norms)
        if ops:
            label = graph.ops[ops[-1]].label
            if family is Family.PLAIN and label in weighted:  # as beside a convolution for QAT
                label = f"{label} ({_kind(graph, ops)})"
            taken[label] = taken.get(label, 0) + 1
            name = label if taken[label] == 1 else f"{label} ({taken[label]})"
            same = (label, *_parameters(graph, ops)) if graph.of_modules else (name,)
            module = modules.setdefault(same, name)
            norm = Normalisation(name, _kind(graph, ops), ops, family, bare, module)
            yield replace(norm, kind=_WEIGHT_KINDS[family]) if norm.of_weight else norm


def _parameters(graph: Graph, ops: tuple[int, ...]) -> Iterator[str]:
    """The names of what a norm's numbers come from; those of two calls of one module are equal."""
    for name in (name for index in ops for name in graph.ops[index].inputs if name is not None):
        if graph.is_constant(name):
            value = graph.values[name]
            yield from value.made_from or (value.label or name,)


def _kind(graph: Graph, ops: tuple[int, ...]) -> str:
    return graph.ops[ops[0]].kind if len(ops) == 1 else "mul+add"


def _at(graph: Graph, index: int, norms: Norms) -> tuple[tuple[int, ...], Family, bool]:
    """The places of the norm that begins there, if one does; its family; whether its call stays."""
    op = graph.ops[index]
    has_affine = op.input(Slot.WEIGHT) is not None or op.input(Slot.BIAS) is not None
    if isinstance(op.spec, Norm):
        bare = norms is Norms.ALL and op.spec.rescales and has_affine
        return (index,), family_of(op.kind), bare
    if norms is Norms.ALL and isinstance(op.spec, (Conv, ConvTranspose, Linear)):
        weight = graph.values.get(op.input(Slot.WEIGHT) or "")
        family = computed_weight(weight.made_from) if weight else None
        return ((index,), family, True) if family else ((), Family.BATCH, False)
    opaque = isinstance(op.spec, Opaque) and normalises_samples(op.kind)  # and so it is kept
    if norms is Norms.ALL and (isinstance(op.spec, Rescaled) or opaque):
        return (index,) if has_affine else (), family_of(op.kind), True
    if ops := _written_out(graph, index):  # whether asked for or not: it is not a BatchNorm
        shifts = len(ops) > 1 or _is_centred(graph, index)
        family = Family.LAYER if shifts else Family.RMS
        return ops if norms is Norms.ALL else (), family, False
    ops = _product_and_sum(graph, index)
    if not ops and norms is Norms.ALL:
        ops = _running_form(graph, index)
    elif ops and is_plain(graph, ops):
        return ops, Family.PLAIN, False
    return ops, Family.BATCH, False


def _product_and_sum(graph: Graph, index: int) -> tuple[()] | tuple[int, int]:
    """The places of x * c and of the only call that reads it, where that is v + c; else none.

    The constants lie along the channels: axis 1 or, as TensorFlow has them, the last one; there, of
    an input of the model, they are the preparation of the data.
    """
    op = graph.ops[index]
    follower = _sum_behind(graph, index) if isinstance(op.spec, Mul) else None
    if follower is None:
        return ()
    wide = [_wide_axes(graph, graph.ops[place]) for place in (index, follower)]
    shape = graph.shape(op.outputs[0])
    per_channel = all(found is not None for found in wide) and shape is not None
    together = set().union(*(found or () for found in wide))
    rank = len(shape or ())
    if not per_channel or rank < 2:
        return ()
    made = op.inputs[data_slot(graph, op)] in graph.producers
    return (index, follower) if together == {1} or (made and together == {rank - 1}) else ()


def _running_form(graph: Graph, index: int) -> tuple[int, ...]:
    """The places of x - mean and of a division by a deviation that alone reads it: Batch Renorm's.

    With a scale and a shift behind them, those are the normalisation, and these lie on its way. Of
    an input of the model it is the preparation of the data.
    """
    op = graph.ops[index]
    follower = _only_reader(graph, index, Mul) if isinstance(op.spec, Add) else None
    if follower is None or len(op.inputs) < 2:
        return ()
    source, last = op.inputs[data_slot(graph, op)], graph.ops[follower]
    scaled = _only_reader(graph, follower, Mul)
    if source not in graph.producers or (scaled and _wide_axes(graph, graph.ops[scaled])):
        return ()
    per_channel = _wide_axes(graph, op) == _wide_axes(graph, last) == {1}
    return (index, follower) if per_channel else ()


def _sum_behind(graph: Graph, index: int) -> int | None:
    """The only call that reads a result, where that is a sum."""
    return _only_reader(graph, index, Add)


def _only_reader(graph: Graph, index: int, kind: type) -> int | None:
    outputs = graph.ops[index].outputs
    uses = graph.uses.get(outputs[0], []) if outputs else []
    if len(uses) != 1 or outputs[0] in graph.outputs:
        return None
    return uses[0].op if isinstance(graph.ops[uses[0].op].spec, kind) else None


def _wide_axes(graph: Graph, op: Op) -> set[int] | None:
    """Along which axes x + c or x * c differs from place to place; None where it is no such map."""
    found = elementwise_map(graph, op)
    shape = graph.shape(op.outputs[0])
    if found is None or shape is None:
        return None
    whole: Affine = found[1].after(identity(len(shape)))
    sizes = whole.scale.shape, whole.shift.shape
    return {axis for size in sizes for axis, n in enumerate(size) if n > 1}


def _written_out(graph: Graph, index: int) -> tuple[int, ...]:
    """The product, and the sum, at the end of a LayerNorm or RMSNorm of many calls."""
    op = graph.ops[index]
    wide = _wide_axes(graph, op) if isinstance(op.spec, Mul) else None
    if wide is None or len(wide) != 1:
        return ()
    (axis,) = wide
    if not _is_normalised(graph, op.inputs[data_slot(graph, op)], axis):
        return ()
    follower = _sum_behind(graph, index)
    shifts = follower is not None and _wide_axes(graph, graph.ops[follower]) == wide
    return (index, follower) if shifts and follower is not None else (index,)


def _is_normalised(graph: Graph, name: str | None, axis: int) -> bool:
    """Whether a value is x / sqrt(...) with one such root for all places along the axis."""
    product = _maker(graph, name)
    if product is None or not isinstance(product.spec, Mul) or len(product.inputs) < 2:
        return False
    for slot in (0, 1):
        if graph.is_constant(product.inputs[slot]):
            continue
        shape, root = graph.shape(product.inputs[slot]), _maker(graph, product.inputs[slot])
        if root is None or shape is None or len(shape) <= axis or shape[axis] != 1:
            continue
        if isinstance(root.spec, Mul):  # 1 / sqrt(...)
            root = _maker(graph, root.inputs[data_slot(graph, root)])
        if root is not None and root.kind.lower() in _ROOTS:
            return True
    return False


def _is_centred(graph: Graph, index: int) -> bool:
    """Whether what is divided by the root is a difference from its mean."""
    op = graph.ops[index]
    product = _maker(graph, op.inputs[data_slot(graph, op)])
    makers = [_maker(graph, name) for name in product.inputs[:2]] if product else []
    return any(maker is not None and _subtracts_mean(graph, maker) for maker in makers)


def _subtracts_mean(graph: Graph, op: Op) -> bool:
    if not isinstance(op.spec, Add) or op.spec.factors[1] >= 0:
        return False
    first, second = (graph.shape(name) for name in op.inputs[:2])
    return second is not None and first != second and 1 in second


def _maker(graph: Graph, name: str | None) -> Op | None:
    """The call that makes a value, before casts and the like."""
    index = graph.producers.get(name or "")
    if index is None:
        return None
    op = graph.ops[index]
    return _maker(graph, op.inputs[0]) if isinstance(op.spec, Identity) else op
