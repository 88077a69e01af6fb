"""A Python caller reads of parameters, and nobody of options that are not there."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bncheck
from bncheck.core.speaking import said_in_python
from bncheck.data import DataOptions
from tests.networks import SAMPLES


@pytest.mark.parametrize(
    ("function", "text", "said"),
    [
        (
            "inspect",
            "check --model, --model-arg and --key",
            "check `model`, `model_args` and `key`",
        ),
        ("inspect", "--shape needs data", "shape=True needs data"),
        ("inspect", "try --device cpu", 'try device="cpu"'),
        ("inspect", "give --metric TARGET:CALLABLE, or", "give `metric`, or"),
        (
            "inspect",
            "give --scale 255 and --mean",
            "give data_options=DataOptions(scale=255) and data_options=DataOptions(mean=...)",
        ),
        (
            "inspect",
            "write e.g. --mean 0.485,0.456,0.406",
            "write e.g. data_options=DataOptions(mean=(0.485,0.456,0.406))",
        ),
        ("inspect", "or --trust for a module", "or --trust of the command line for a module"),
        ("fold", "check --input against", "check `example_inputs` against"),
        ("fold", "try --norms all, which", 'try norms="all", which'),
        ("export", "give --static-batch (a .pt2", "give dynamic_batch=False (a .pt2"),
        ("export", "leave out --dynamic-batch:", "leave out dynamic_batch=True:"),
        ("export", "try --opset 22", "try opset=22"),
        ("landscape", "e.g. --eta 0.1", "e.g. eta=0.1"),
        ("compare", "e.g. --input 3,224,224, or", 'e.g. inputs=["3,224,224"], or'),
        ("inspect", "put -- before a--b or ---", "put -- before a--b or ---"),
    ],
)
def test_options_become_parameters(function: str, text: str, said: str) -> None:
    parameters = inspect.signature(getattr(bncheck, function)).parameters
    assert said_in_python(text, parameters) == said


def test_the_fields_of_data_options_are_known() -> None:
    parameters = inspect.signature(bncheck.inspect).parameters
    for name in inspect.signature(DataOptions).parameters:
        option = f"--{name.replace('_', '-')}"
        assert said_in_python(option, parameters) == f"data_options=DataOptions({name}=...)"


def test_errors_of_the_api_speak_python(tmp_path: Path) -> None:
    net = SAMPLES / "healthy.pt"
    with pytest.raises(bncheck.BncheckError, match="give `model`, or") as raised:
        bncheck.inspect(net, np.zeros((4, 1, 8, 8), np.float32))
    assert "--model" not in str(raised.value)
    with pytest.raises(bncheck.BncheckError, match=r"leave `key` out|choose from|did you mean"):
        bncheck.open_checkpoint(net, key="nothing")
    with pytest.raises(bncheck.BncheckError, match="with `key` bn1 only that"):
        bncheck.inspect(net, torch.zeros(4, 1, 8, 8), model=nn.Linear(3, 3))
    with pytest.raises(bncheck.BncheckError) as raised:
        bncheck.compare(net, net)
    assert "`model`" in str(raised.value)
