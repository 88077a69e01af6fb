"""A sum of a linear call and what that call reads: docs/folding.md, "Identity".

The identity is one more kernel of the call, so the call can make up for what the other summand,
which stays as it is, does not take over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.absorbing import output_channels
from bncheck.folding.planner.beside import find_branch
from bncheck.folding.planner.draft import Draft, Step
from bncheck.folding.planner.maps import Stuck
from bncheck.graph.specs import Add


@dataclass(frozen=True)
class Identity:
    """What is added to a call's own input: that summand's slot and value, and its multiple beside
    one of the call's result."""

    slot: int
    source: str
    call: int
    share: float


def identity_in(draft: Draft, index: int) -> Identity | None:
    """The summand that a linear call in the other one reads."""
    graph, add = draft.graph, draft.graph.ops[index]
    assert isinstance(add.spec, Add)
    for slot in (0, 1):
        source, other = add.inputs[slot], add.inputs[1 - slot]
        if source is None or graph.shape(add.outputs[0]) != graph.shape(source):
            continue
        branch = find_branch(draft, other, source, add.spec.factors[1 - slot], into_norms=False)
        if branch is not None and source not in draft.altered:
            call, share = branch.calls[-1], add.spec.factors[slot] / branch.factor
            return Identity(slot, source, call, share)
    return None


def make_up(draft: Draft, step: Step, found: Identity, map_: Affine) -> None:
    """a (f x + g conv(x)) + t = f x + g conv'(x), conv'(x) = a conv(x) + (f (a - 1) x + t) / g.

    The call has taken a and t already.
    """
    fold = step.folds.get(found.call)
    if fold is None or found.source in step.altered:
        raise Stuck("the call that reads the other summand takes nothing over")
    lacking = Affine(map_.scale - 1.0, np.zeros_like(map_.shift))
    vector = output_channels(draft.graph, draft.graph.ops[found.call], lacking)
    scale = vector.scale * found.share
    beside = Affine(scale, vector.shift)
    if fold.beside:
        beside = Affine(fold.beside.scale + scale, fold.beside.shift)
    step.folds[found.call] = replace(fold, beside=beside)
