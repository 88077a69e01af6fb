"""Inputs that a model cannot be exported with, and what the user is told."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from bncheck import BncheckError, fold
from bncheck.folding.program.exporting import (
    batch_sizes,
    export_program,
    has_free_batch,
    user_inputs,
)


class _ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x)) * mask
        return y


def test_inputs_that_only_go_by_name_are_named() -> None:
    with pytest.raises(BncheckError, match="do not fit the model's forward") as caught:
        fold(_ByName().eval(), torch.randn(2, 3, 8, 8))
    assert caught.value.hint.startswith("mask can only be given by name")


def test_too_many_inputs_are_told_what_the_model_takes() -> None:
    with pytest.raises(BncheckError, match="do not fit the model's forward") as caught:
        fold(nn.BatchNorm1d(3).eval(), (torch.randn(2, 3), torch.randn(2, 3)))
    assert "it takes input" in caught.value.hint


def test_an_example_without_samples_compares_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with pytest.raises(BncheckError, match="hold no sample"):
        fold(model, torch.randn(0, 3, 8, 8))


def test_a_program_of_no_samples_compares_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    program = torch.export.export(model, (torch.randn(0, 3, 8, 8),))
    with pytest.raises(BncheckError, match="hold no numbers"):
        fold(program)


@pytest.mark.parametrize("shape", [(2, 3, 12), (2, 1, 12, 12)])
def test_a_wrong_shape_is_told_in_numbers(shape: tuple[int, ...]) -> None:
    """Not as the symbol s77 that torch.export has for a free batch."""
    with pytest.raises(BncheckError, match=r"channels, but got \d channels") as caught:
        fold(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), torch.zeros(shape))
    assert not re.search(r"\bs\d+\b", str(caught.value))


class _Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 8:
            raise ValueError("images of 8 x 8, please")
        y: Tensor = self.bn(self.conv(x))
        return y


def test_the_line_that_is_named_is_the_models() -> None:
    with pytest.raises(BncheckError, match="images of 8 x 8, please") as caught:
        fold(_Narrow().eval(), torch.randn(2, 3, 9, 9))
    assert "test_exporting.py" in str(caught.value)
    assert "timing.py" not in str(caught.value)


def test_no_call_keeps_where_it_stands_in_the_code() -> None:
    """To know it takes a twelfth of an export; torch keeps it again afterwards."""
    model, images = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(),
        torch.randn(2, 3, 8, 8),
    )
    ours = fold(model, images).program
    assert not any(node.stack_trace for node in ours.graph.nodes)
    theirs = torch.export.export(model, (images,))
    assert any(node.stack_trace for node in theirs.graph.nodes)


def test_the_axis_that_is_given_is_the_batch_where_the_first_could_be_free_as_well() -> None:
    program = export_program(nn.Linear(8, 4).eval(), (torch.zeros(20, 2, 8),), (1,))
    (size,) = batch_sizes([torch.zeros(20, 2, 8)], (1,))
    assert size == 2
    (taken,) = (node.meta["val"].shape for node in user_inputs(program))
    assert taken[0] == 20
    assert has_free_batch(program, (1,))
    assert not has_free_batch(program)
