"""What a recorder is told and cannot use is said at once, and in a step it stops nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bncheck.core.errors import BncheckError
from bncheck.reading.record import read_record
from bncheck.recording import Recorder
from tests.recording.training import net


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"every": 0}, "every=0 is not a number of steps"),
        ({"every": 2.5}, "every=2.5 is not"),
        ({"keep": 1}, "keep=1 is not"),
        ({"layers": "x"}, "layers='x' is not known"),
        ({"optimizer": "x"}, "optimizer is a str"),
        ({"on_finding": "x"}, "on_finding='x' is not known"),
        ({"also": {"": net()}}, "a model without a name"),
    ],
)
def test_what_would_be_misunderstood_is_refused(
    tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(BncheckError, match=says):
        Recorder(net(), tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_a_step_that_is_not_a_number_is_one_warning(tmp_path: Path, logged: list[str]) -> None:
    model = net()
    told: Any = "x"
    with Recorder(model, tmp_path, every=2) as recorder:
        for _ in range(4):
            model(torch.randn(8, 8))
            recorder.step(step=told, lr=torch.tensor(0.5))  # type: ignore[arg-type]
    (line,) = logged
    assert "step='x', which is not a whole number; the training goes on" in line
    entries = read_record(tmp_path).entries
    assert [(entry.step, entry.lr) for entry in entries] == [(1, 0.5), (2, 0.5), (4, 0.5)]
