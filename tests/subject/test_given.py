"""What Python callers hand in as a model: one sentence and a next step, or the right answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.recording import Recorder
from bncheck.subject.model import load_weights
from bncheck.testing import assert_sound

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@dataclass
class _Output:
    logits: Tensor


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn: nn.Module = nn.BatchNorm2d(4, eps=1e-2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class _Packed(_Net):
    def forward(self, x: Tensor) -> _Output:  # type: ignore[override]
        return _Output(self.bn(self.conv(x)))


def _net(kind: type[_Net] = _Net) -> _Net:
    torch.manual_seed(0)
    net = kind()
    for _ in range(20):
        net(torch.randn(8, 3, 6, 6))
    return net.eval()


def _scripted(way: str) -> Any:
    jit: Any = torch.jit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = jit.trace(_net(), X) if way == "traced" else jit.script(_net())
        return jit.freeze(made) if way == "frozen" else made


def _with_scripted_norm() -> nn.Module:
    net, jit = _net(), torch.jit
    net.bn = jit.script(net.bn)
    return net


_MEASURE: dict[str, Callable[[Any, Path], Any]] = {
    "inspect with data": lambda model, _: bncheck.inspect(model, [X]),
    "assert_sound": lambda model, _: assert_sound(model, [X]),
    "recalibrate": lambda model, _: bncheck.recalibrate(model, [X]),
    "landscape": lambda model, _: bncheck.landscape(model, [(X, X)], eta=0.1),
}
_CONVERT: dict[str, Callable[[Any, Path], Any]] = {
    "fold": lambda model, _: bncheck.fold(model, X),
    "export": lambda model, path: bncheck.export(model, X, path / "x.onnx"),
}
_CALLS: dict[str, Callable[[Any, Path], Any]] = {
    **_MEASURE,
    **_CONVERT,
    "inspect a file": lambda model, path: bncheck.inspect(_saved(path), [X], model=model),
    "Recorder": lambda model, path: Recorder(model, path / "record"),
}
_SCRIPTED: dict[str, Callable[[], Any]] = {
    "scripted": lambda: _scripted("scripted"),
    "traced": lambda: _scripted("traced"),
    "frozen": lambda: _scripted("frozen"),
    "a scripted norm": _with_scripted_norm,
}


def _saved(path: Path) -> Path:
    torch.save(_net().state_dict(), path / "net.pt")
    return path / "net.pt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("kind", _SCRIPTED)
def test_torchscript_is_not_measured(kind: str, call: str, tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match=r"TorchScript|bn scripted") as caught:
        _CALLS[call](_SCRIPTED[kind](), tmp_path)
    assert "give the nn.Module that it was made from" in caught.value.hint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["scripted", "traced"])
def test_torchscript_in_memory_is_inspected_as_its_file_is(way: str, tmp_path: Path) -> None:
    model = _scripted(way)
    model.save(str(tmp_path / "model.pt"))
    (ours,), (theirs,) = (bncheck.inspect(x).layers for x in (model, str(tmp_path / "model.pt")))
    assert ours.eps == theirs.eps
    assert ours.eps.value == 1e-2
    assert ours.training is False
    assert bncheck.inspect(model).checkpoint is None


_STRANGERS: dict[str, Any] = {
    "a class": _Net,
    "a function": _Net.forward,
    "a state dict": {"bn.running_mean": X},
    "None": None,
}
_REFUSED = [
    (call, kind)
    for call in _CALLS
    for kind in _STRANGERS
    if (call, kind) != ("inspect a file", "None")
]


@pytest.mark.parametrize(("call", "kind"), _REFUSED)
def test_what_is_not_a_module_is_refused(call: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match=r"not a torch.nn.Module"):
        _CALLS[call](_STRANGERS[kind], tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", [*_MEASURE, "export"])
def test_the_module_of_a_program_has_no_eval_mode(call: str, tmp_path: Path) -> None:
    module = torch.export.export(_net(), (X,)).module()
    with pytest.raises(BncheckError, match="cannot be set to eval mode"):
        _CALLS[call](module, tmp_path)
    assert not bncheck.inspect(module).findings  # its flags say nothing: no BN401
    assert bncheck.fold(module, X).batchnorms[0].status == "folded"


@pytest.mark.parametrize("call", [*_MEASURE, "fold", "export", "Recorder"])
def test_a_model_without_numbers_is_refused(call: str, tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match="is on the meta device"):
        _CALLS[call](_net().to("meta"), tmp_path)


def test_weights_are_not_loaded_into_nothing(tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match="is on the meta device"):
        load_weights(_net().to("meta"), bncheck.open_checkpoint(_saved(tmp_path)))


@pytest.mark.parametrize("call", _CONVERT)
def test_an_output_of_a_class_of_ones_own_needs_registering(call: str, tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match="register_dataclass"):
        _CONVERT[call](_net(_Packed), tmp_path)


@pytest.mark.parametrize("call", _CONVERT)
def test_inputs_of_another_dtype_are_named(call: str, tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match="inputs of the dtype"):
        _CONVERT[call](_net().half(), tmp_path)
