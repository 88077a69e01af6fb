"""The table of torch's operators, put together from those of the families."""

from __future__ import annotations

from collections.abc import Mapping

from bncheck.graph.aten.algebra import ALGEBRA
from bncheck.graph.aten.calls import Call, Describe, Described
from bncheck.graph.aten.gathers import GATHERS
from bncheck.graph.aten.norms import NORMS
from bncheck.graph.aten.pooling import POOLING
from bncheck.graph.aten.views import VIEWS
from bncheck.graph.operators import TORCH, Alike, UndescribedError


def _alike(known: Alike) -> Describe:
    return lambda call: (known.spec, (*call.args, None)[: known.inputs])


OPERATORS: Mapping[str, Describe] = {
    **{name: _alike(known) for name, known in TORCH.items()},
    **ALGEBRA,
    **NORMS,
    **VIEWS,
    **POOLING,
    **GATHERS,
}


def described(call: Call) -> Described | None:
    """What a call of an operator of aten is, and its inputs, the data before the weights.

    None where nothing is known of it.
    """
    describe = OPERATORS.get(call.name)
    try:
        return None if describe is None else describe(call)
    except UndescribedError:
        return None
