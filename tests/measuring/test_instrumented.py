"""A model is looked through once, and its names and the file's are told apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.norms import norms_of


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()


def test_layers_are_found_in_the_order_of_the_module() -> None:
    subject = Instrumented.of(net(), "ema.")
    assert [norm.name for norm in subject.norms] == ["1", "3"]
    assert list(subject.by_file_name()) == ["ema.1", "ema.3"]


def test_names_go_to_the_file_and_back() -> None:
    subject = Instrumented.of(net(), "ema.")
    found = {"1": 1, "3": 3}
    assert subject.in_model(subject.in_file(found)) == found


def test_another_part_of_the_file_is_not_part_of_the_model() -> None:
    """`1` of the file is not `ema.1`, which the model calls 1."""
    assert Instrumented.of(net(), "ema.").in_model({"1": "other", "ema.1": "ours"}) == {"1": "ours"}


def test_a_model_without_layers_is_one_until_it_is_measured() -> None:
    subject = Instrumented.of(nn.Linear(2, 2))
    assert subject.norms == ()
    with pytest.raises(BncheckError, match="no normalisation layer"):
        subject.require_norms()


def test_a_run_looks_for_the_layers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cascades, the comparison and the causes use what was found at the start."""
    looked = []
    found_by = norms_of

    def counted(model: nn.Module) -> object:
        looked.append(model)
        return found_by(model)

    monkeypatch.setattr("bncheck.measuring.instrumented.norms_of", counted)
    x = torch.randn(128, 1, 8, 8) * 3 + 5  # nothing like the initial statistics: all is looked at
    report = bncheck.inspect(net(), x)
    assert report.measurement is not None
    assert report.measurement.comparison is not None
    assert len(looked) == 1
