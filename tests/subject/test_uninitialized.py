"""Lazy modules and observers, whose shapes are the file's or the first input's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import default_per_channel_weight_fake_quant

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint
from bncheck.recording import Recorder
from bncheck.subject.model import load_weights


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())


def test_a_lazy_model_takes_the_shapes_of_the_file(tmp_path: Path) -> None:
    trained = lazy()
    trained(torch.randn(8, 2, 6, 6))
    torch.save(trained.state_dict(), tmp_path / "lazy.pt")
    model = lazy()
    load_weights(model, open_checkpoint(tmp_path / "lazy.pt"))
    name = "1.running_mean"
    assert torch.equal(model.state_dict()[name], trained.state_dict()[name])


X = torch.randn(4, 2, 6, 6)
CALLS: dict[str, Callable[[nn.Sequential, Path], Any]] = {
    "inspect": lambda model, _: bncheck.inspect(model),
    "inspect with data": lambda model, _: bncheck.inspect(model, [X]),
    "recalibrate": lambda model, _: bncheck.recalibrate(model, [X]),
    "fold": lambda model, _: bncheck.fold(model, X),
    "export": lambda model, path: bncheck.export(model, X, path / "lazy.onnx"),
    "landscape": lambda model, _: bncheck.landscape(model, [(X, X)], eta=0.1),
    "Recorder": lambda model, path: Recorder(model, path / "record"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_lazy_model_without_shapes_is_refused_and_stays_lazy(call: str, tmp_path: Path) -> None:
    model = lazy()
    with pytest.raises(BncheckError, match=r"running_mean|1\.weight|0\.weight") as caught:
        CALLS[call](model, tmp_path)
    assert "run one batch through the model" in str(caught.value)
    assert isinstance(model[1].running_mean, torch.nn.UninitializedBuffer)


def test_an_observer_takes_the_shape_of_the_file(tmp_path: Path) -> None:
    def build() -> nn.ModuleDict:
        return nn.ModuleDict(
            {"observer": default_per_channel_weight_fake_quant(), "bn": nn.BatchNorm2d(3)}
        )

    trained = build()
    trained["observer"](torch.randn(16, 2))
    torch.save(trained.state_dict(), tmp_path / "qat.pt")
    model = build()
    assert model["observer"].scale.shape != trained["observer"].scale.shape
    load_weights(model, open_checkpoint(tmp_path / "qat.pt"))
    name = "observer.scale"
    assert torch.equal(model.state_dict()[name], trained.state_dict()[name])
