"""What other tools fold is folded; what stays has the reason that is true of it."""

from __future__ import annotations

import pytest
import torch

from bncheck.folding.planner.plan import Status
from tests.folding.peers import (
    between_cases,
    computed_cases,
    exact_cases,
    ordered_cases,
    reason_cases,
    shared_cases,
    torch_cases,
)
from tests.folding.peers.running import check

torch.set_num_threads(1)
CASES = (
    torch_cases.CASES | exact_cases.CASES | shared_cases.CASES | ordered_cases.CASES
    | computed_cases.CASES | reason_cases.CASES | between_cases.CASES
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    outcome = check(case)
    kept = [d for d in outcome.decisions if d.status is Status.KEPT]
    assert len(kept) == case.kept, outcome.decisions
    assert outcome.error < 1e-12
    assert all(d.reason for d in kept)
    if case.reason:
        assert any(case.reason in f"{d.reason} {d.hint}" for d in kept), kept


@pytest.mark.parametrize(
    "name",
    [
        "inductor several users", "fx conv with two norms", "bmm of an expanded weight",
    ],
)  # fmt: skip
def test_the_same_in_core_operators(name: str) -> None:
    outcome = check(CASES[name], core=True)
    assert all(d.status is not Status.KEPT for d in outcome.decisions), outcome.decisions
    assert outcome.error < 1e-12
