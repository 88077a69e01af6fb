"""Who else reads what a norm would change: docs/folding.md, "Pull"."""

from __future__ import annotations

from collections.abc import Mapping

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.draft import Draft
from bncheck.folding.planner.maps import Shared
from bncheck.graph.dataflow import Use


def bystander(
    draft: Draft, name: str, source: str, wanted: Mapping[str, Mapping[Use, Affine]]
) -> Shared | None:
    """Why a value on the way to a norm's input, `source`, cannot change: somebody else reads it.

    `wanted` has the readers that take the change; None where there are no others.
    """
    graph, is_input = draft.graph, name == source
    readers = [use for use in graph.uses.get(name, []) if use not in wanted.get(name, {})]
    others = [graph.ops[draft.final_reader(use.op)] for use in readers]
    maker = graph.ops[graph.producers[name]]
    what = "its input" if is_input else f"the result of {maker.called}"
    if name in graph.outputs:
        hint = "" if others else "take it out of the outputs if nobody needs it"
        return Shared(f"{what} is also an output of the {graph.what}", hint, name)
    if not others:
        return None
    who = others[0].called if len(others) == 1 else "all others that read it"
    hint = f"let {who} read its result instead, and train again" if is_input else ""
    return Shared(f"{what} is also used by {others[0].called}", hint, name)
