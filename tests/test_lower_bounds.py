"""`make lower-bounds` runs apart from the suite: what it names must be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lower_bounds import EXPECTED, NEEDS_TORCH, SAMPLES, TESTS

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", TESTS)
def test_what_it_runs_is_there(name: str) -> None:
    assert (HERE / name).exists()


def test_what_it_leaves_out_is_there() -> None:
    file, _, function = NEEDS_TORCH.partition("::")
    assert f"def {function}(" in (HERE / file).read_text()


def test_the_samples_that_it_inspects_are_there() -> None:
    missing = {name for name in EXPECTED if not (SAMPLES / name).exists()}
    assert missing == {"absent.pt"}
