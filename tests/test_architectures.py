"""A quick part of `python -m tests.architectures`: how many BatchNorms stay, and why."""

from __future__ import annotations

import pytest
import torch

from tests.architectures import ARCHITECTURES, folded, report

torch.set_num_threads(1)

#: What stays: in DenseNet and the preactivated ResNet a norm lies between a value that others read
#: and a ReLU, so no weight can take it over.
KEPT = {"densenet": 6, "resnet, preactivated": 3}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_is_folded_but_what_cannot_be(name: str) -> None:
    result = folded(name)
    assert len(result.report.kept) == KEPT.get(name, 0), report(name, result)
    assert result.parity is not None
    # As the command judges it: each channel within 1e-5 of the float64 original, or as close to it
    # as rounding lets the unfolded float32 model come.
    assert result.parity.holds
    assert result.parity.max_relative_error < 1e-5 + 2 * result.parity.original_error
    assert result.parity.batches == (2, 1)
    for decision in result.report.kept:
        assert "is also used by" in decision.reason
        assert "relu" in decision.reason
