"""A quick part of `python -m tests.diagnosis`, on a network that nothing was tuned on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests.diagnosis.__main__ import matrix
from tests.diagnosis.faults import Truth
from tests.diagnosis.judging import QUICK, Outcome, Written, judged, states
from tests.diagnosis.training import HELD_OUT


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = next(network for network in HELD_OUT if network.name == "table")
    found = [judged(network, state) for state in states(network, plans=QUICK)]
    torch.set_num_threads(threads)
    return found


def of(outcomes: Sequence[Outcome], *truths: Truth) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.state.truth in truths]


def test_faults_have_their_own_name_or_none(outcomes: list[Outcome]) -> None:
    sick = of(outcomes, Truth.STATISTICS, Truth.DATA, Truth.WEIGHTS)
    assert len(sick) >= 40
    assert sum(outcome.acceptable for outcome in sick) >= 0.85 * len(sick), matrix(sick)


@pytest.mark.parametrize(
    ("state", "code"), [("outlier_batch_x100", "BN212"), ("tf_m.99_b16", "BN207")]
)
def test_what_one_batch_left_is_not_named_after_scales_of_the_features(
    outcomes: list[Outcome], state: str, code: str
) -> None:
    assert next(outcome.code for outcome in outcomes if outcome.state.name == state) == code


def test_faults_in_one_layer_are_found_there(outcomes: list[Outcome]) -> None:
    placed = [outcome for outcome in outcomes if outcome.state.layers and outcome.detected]
    wrong = [outcome.state.name for outcome in placed if not outcome.layer_right]
    assert len(placed) >= 8
    assert not wrong


def test_advice_is_never_the_wrong_way_round(outcomes: list[Outcome]) -> None:
    assert [outcome.state.name for outcome in outcomes if outcome.wrong_way] == []


def test_sound_states_give_no_alarm(outcomes: list[Outcome]) -> None:
    well = of(outcomes, Truth.SOUND)
    assert len(well) >= 6
    assert [outcome.state.name for outcome in well if outcome.detected] == []


def test_nothing_harmful_is_written(outcomes: list[Outcome]) -> None:
    assert [o.state.name for o in outcomes if o.written is Written.HARMFUL] == []


def test_what_is_written_restores_statistics(outcomes: list[Outcome]) -> None:
    sick = [outcome for outcome in of(outcomes, Truth.STATISTICS) if outcome.detected]
    restored = [outcome for outcome in sick if outcome.written is Written.RESTORED]
    assert len(restored) >= 0.8 * len(sick), matrix(sick)
