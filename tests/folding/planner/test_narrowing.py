# mypy: disable-error-code="operator,no-any-return"
"""Casts between a norm and its neighbours: what becomes narrower must hold what it then is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bncheck.folding.program.fold import fold
from tests.folding.patterns.building import Fn

torch.set_num_threads(1)

Run = Callable[[Any, Tensor], Tensor]


def _decision(
    run: Run,
    *,
    mean: float = 0.0,
    gamma: float = 1.0,
    beta: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """What becomes of a BatchNorm in `dtype` beside a float16 layer."""
    bn, fc = nn.BatchNorm1d(8).to(dtype), nn.Linear(8, 8).half()
    nn.init.constant_(bn.running_mean, mean)  # type: ignore[arg-type]
    nn.init.constant_(bn.weight, gamma)
    nn.init.constant_(bn.bias, beta)
    torch.manual_seed(0)
    result = fold(Fn(run, bn=bn, fc=fc).eval(), torch.randn(2, 8))
    (decision,) = result.batchnorms
    return decision


@pytest.mark.parametrize(
    "run",
    [
        lambda s, x: s.fc(s.bn(x).half()),
        lambda s, x: s.fc(s.bn(x).relu().view(-1, 8).half()),
        lambda s, x: s.fc(s.bn(x.half().float() + x).half()),
    ],
    ids=["at once", "behind others", "of half what is exact"],
)
def test_an_input_that_may_not_fit_the_narrower_dtype_is_normalised_first(run: Run) -> None:
    decision = _decision(run, mean=288.0)
    assert decision.status == "kept"


def test_the_reason_names_both_dtypes() -> None:
    decision = _decision(lambda s, x: s.fc(s.bn(x).half()), mean=288.0)
    assert "behind it float32 becomes float16" in decision.reason
    assert decision.hint == "cast to float16 before it, not behind it"


@pytest.mark.parametrize(
    "run",
    [
        lambda s, x: s.fc(s.bn(x.half().float()).half()),
        lambda s, x: s.fc(s.bn(x.half().relu().float().view(-1, 8)).half()),
    ],
    ids=["at once", "behind others"],
)
def test_numbers_that_were_of_the_narrower_dtype_fit(run: Run) -> None:
    assert _decision(run, mean=288.0).status == "folded"


def test_with_the_cast_before_it_it_is_folded_as_the_hint_says() -> None:
    decision = _decision(lambda s, x: s.fc(s.bn(x.half())), dtype=torch.float16)
    assert decision.status == "folded"


@pytest.mark.parametrize(
    ("gamma", "run", "status"),
    [
        (1.0, lambda s, x: s.bn(s.fc(x.half()).float()), "folded"),
        (2000.0, lambda s, x: s.bn(s.fc(x.half()).float()), "kept"),
        (2000.0, lambda s, x: s.bn(s.fc(x.half()).float()).relu().half(), "folded"),
    ],
    ids=["fits", "overflows", "becomes narrow again"],
)
def test_a_result_that_would_have_to_be_held_in_a_narrower_dtype(
    gamma: float, run: Run, status: str
) -> None:
    decision = _decision(run, gamma=gamma)
    assert decision.status == status
    assert (status == "kept") == ("before it values are float16" in decision.reason)


def test_a_channel_that_hardly_varies_is_not_looked_at() -> None:
    """A pruned one is its shift, however that is rounded."""
    bn, fc = nn.BatchNorm1d(8), nn.Linear(8, 8).half()
    nn.init.ones_(bn.bias)
    bn.weight.data[3] = 1e-5
    model = Fn(lambda s, x: s.bn(s.fc(x.half()).float()), bn=bn, fc=fc)
    (decision,) = fold(model.eval(), torch.randn(2, 8)).batchnorms
    assert decision.status == "folded"


@pytest.mark.parametrize(
    ("beta", "mean", "run", "status"),
    [
        (3.0, 0.0, lambda s, x: s.bn(s.fc(x.half()).float()), "folded"),
        (300.0, 0.0, lambda s, x: s.bn(s.fc(x.half()).float()), "kept"),
        (300.0, 300.0, lambda s, x: s.bn(s.fc(x.half()).float()), "folded"),
        (300.0, 0.0, lambda s, x: s.bn(s.fc(x.half()).float()).half(), "folded"),
    ],
    ids=["of its size", "far from its size", "as far as its input", "becomes narrow again"],
)
def test_a_result_that_a_narrower_dtype_would_round_by_much_of_its_spread(
    beta: float, mean: float, run: Run, status: str
) -> None:
    """300 +- 1 is known by quarters in float16."""
    decision = _decision(run, beta=beta, mean=mean)
    assert decision.status == status
    assert (status == "kept") == ("by much of its spread" in decision.reason)
