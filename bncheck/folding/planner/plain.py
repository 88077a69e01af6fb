"""Whether a product and a sum were learned as they are, or are a BatchNorm that is written out.

A BatchNorm's scale gamma / sqrt(var + eps) is a part of its shift beta - mean * scale, or mean and
deviation come before both. A torch program shows that. A file may hold the results alone, and then
what is known is what they are called and what they follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from bncheck.folding.planner.families import normalises_samples
from bncheck.folding.planner.normalisations import data_slot, elementwise_map
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.specs import Add, Identity, Mul, Rescaled, Reshape, Transpose
from bncheck.graph.weighted import Weighted

#: What says that it is a BatchNorm, or that numbers are its statistics.
_OF_BATCH: Final = re.compile(
    r"batch_?norm|(?<![a-z])bn(?![a-z])|(?<![a-z])(?:running|moving|mean|var|std)(?![a-z])",
    re.IGNORECASE,
)
#: What exporters and optimisers call numbers that they have computed.
_COMPUTED: Final = re.compile(r"::|lifted_|const_?fold|frozen_param", re.IGNORECASE)
_NUMBERED: Final = re.compile(r"[^.]*\d")
_PARAMETER: Final = re.compile(r"(.+)\.[A-Za-z]+")
#: Whose results are scaled and shifted by learned numbers: DyT (https://arxiv.org/abs/2503.10622).
_SQUASHING: Final = frozenset({"tanh", "erf", "softsign", "sigmoid"})


def is_plain(graph: Graph, ops: tuple[int, int]) -> bool:
    """Whether this product and this sum are a learned map as far as one can know."""
    product, total = (graph.ops[index] for index in ops)
    scale, shift = (tuple(_sources(graph, op)) for op in (product, total))
    before = _before(graph, product)
    if set(scale) & set(shift) or _standardises(graph, before, len(scale)):
        return False
    if len(scale) > 1 or len(shift) > 1:  # computed, but each for itself
        return True
    names = (*scale, *shift)
    if any(map(_OF_BATCH.search, (*names, product.label, total.label))):
        return False
    if not names or any(map(_COMPUTED.search, names)):
        return False
    return graph.of_modules or _is_plain_in_file(before, names)


def _standardises(graph: Graph, before: Op | None, sources: int) -> bool:
    """Whether the call before divides by deviations, or subtracts means of a computed scale."""
    if before is None or not isinstance(before.spec, (Add, Mul)):
        return False
    if elementwise_map(graph, before) is None:
        return False
    constant = graph.values[before.inputs[1 - data_slot(graph, before)] or ""]
    stored = bool(constant.label or constant.made_from) or constant.shape != ()
    return stored and (isinstance(before.spec, Mul) or sources > 1)


def _is_plain_in_file(before: Op | None, names: tuple[str, ...]) -> bool:
    """Whether names, or the call before, say so of numbers that may be a BatchNorm's."""
    if before is not None:
        if isinstance(before.spec, Rescaled) or normalises_samples(before.kind):
            return True
        if isinstance(before.spec, Weighted):
            return False
    if any(map(_NUMBERED.fullmatch, names)):
        return False
    owners = [found[1] for name in names if (found := _PARAMETER.fullmatch(name))]
    of_one = len(owners) == len(names) and len(set(owners)) == 1
    return of_one or (before is not None and before.kind.lower() in _SQUASHING)


def _sources(graph: Graph, op: Op) -> Iterator[str]:
    """The stored tensors that the constant of x * c or x + c comes from, without single numbers."""
    name = op.inputs[1 - data_slot(graph, op)] or ""
    value = graph.values[name]
    for source in value.made_from or (value.label or name,):
        known = graph.values.get(source)
        single = known is not None and known.shape is not None and set(known.shape) <= {1}
        if not single and (known is None or known.dtype):
            yield source


def _before(graph: Graph, op: Op) -> Op | None:
    """The call that makes what is multiplied, before those that only arrange it."""
    index = graph.producers.get(op.inputs[data_slot(graph, op)] or "")
    while index is not None:
        found = graph.ops[index]
        if not isinstance(found.spec, (Identity, Reshape, Transpose)):
            return found
        index = graph.producers.get(found.inputs[0] or "")
    return None
