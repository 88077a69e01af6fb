"""Which rules count, told with and without all of them at hand."""

from __future__ import annotations

import pytest

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity
from bncheck.rules.choosing import choose_rules
from bncheck.rules.registry import RULES, find_rule

CHOICES = {
    "all": ((), (), len(RULES)),
    "a family": (("BN1",), (), sum(rule.code.startswith("BN1") for rule in RULES)),
    "a code and a name": (("bn101,dead-channels",), (), 2),
    "less a name": (("BN101", "BN109"), ("dead-channels",), 1),
    "all less a family": ((), ("BN",), 0),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_members_list_and_findings_agree(choice: str) -> None:
    select, ignore, number = CHOICES[choice]
    chosen = choose_rules(select, ignore)
    assert len(chosen) == len(list(chosen)) == number
    for rule in RULES:
        made = chosen.made(rule.finding(Severity.INFO, None, "", ""))
        assert (rule in chosen) == (rule in list(chosen)) == made


@pytest.mark.parametrize("word", ["BN999", "", "dead-chanels", "BN1x"])
def test_a_word_that_means_no_rule_is_an_error(word: str) -> None:
    for select, ignore in (((word,), ()), ((), (word,))):
        with pytest.raises(BncheckError, match="there is no rule"):
            choose_rules(select, ignore)


def test_every_rule_is_found_by_code_and_name() -> None:
    for rule in RULES:
        assert find_rule(rule.code.lower()) is find_rule(rule.name.upper()) is rule
