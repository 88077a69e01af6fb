"""A fix is one sentence, whatever it is put together from."""

from __future__ import annotations

import re

import pytest

from bncheck.inspecting.diagnosis import _joined
from bncheck.rules.registry import RULES

RUN = "run `bncheck recalibrate a.pt -o b.pt`"


@pytest.mark.parametrize(
    ("advice", "fix"),
    [
        ("", RUN),
        ("shuffle while training", f"{RUN}; shuffle while training"),
        ("or convert them where they come from", f"{RUN}, or convert them where they come from"),
    ],
)
def test_an_alternative_and_an_addition_are_joined_as_such(advice: str, fix: str) -> None:
    assert _joined(RUN, advice) == fix


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_says_what_to_do_in_a_form_that_a_finding_can_have(rule: object) -> None:
    fix = rule.fix  # type: ignore[attr-defined]
    assert fix
    assert fix[0].islower() or re.match(r"--|BN|Sync|\w+\(", fix)
    assert "\n" not in fix
    assert not fix.endswith(".")
