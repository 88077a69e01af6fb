"""What other tools fold in ONNX models is folded; what stays has the reason that is true of it."""

from __future__ import annotations

import pytest

from bncheck.folding.planner.plan import Status
from tests.folding.peers import more_onnx_cases, onnx_cases
from tests.folding.peers.onnx_cases import INVALID
from tests.folding.peers.running import check_onnx

CASES = onnx_cases.CASES | more_onnx_cases.CASES


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    outcome = check_onnx(case)
    kept = [d for d in outcome.decisions if d.status is Status.KEPT]
    assert outcome.decisions
    assert len(kept) == case.kept, outcome.decisions
    assert outcome.error < 1e-12
    assert all(d.reason for d in kept)
    if case.reason:
        assert any(case.reason in f"{d.reason} {d.hint}" for d in kept), kept


@pytest.mark.parametrize("name", INVALID)
def test_sizes_that_contradict_one_another(name: str) -> None:
    decisions = check_onnx(INVALID[name]).decisions
    assert decisions
    assert all(d.status is Status.KEPT and d.reason for d in decisions), decisions
