"""Code of TorchScript files as others may write it, walked through and never run.

`v` is the running variance of the norm `n`, `x` the input.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import batch_norm

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity
from bncheck.inspecting.from_file import InspectOptions
from bncheck.inspecting.several import notes_on
from bncheck.reading.opening import open_checkpoint
from tests.hostile.torchscript_liars import _HERE, _run_before, build

_FUNCTIONS = f"""def negate(t: Tensor) -> Tensor:
  return torch.neg_(t)
def pair(t: Tensor) -> Tuple[int, Tensor]:
  return (1, t)
class Holder:
  t : Tensor
  def __init__(self: {_HERE}.Holder,
    t: Tensor) -> NoneType:
    self.t = t
    return None
  def change(self: {_HERE}.Holder) -> NoneType:
    a = torch.neg_(self.t)
    return None
"""
_NEW = f"h = {_HERE}.Holder.__new__({_HERE}.Holder)\n"
_LIES = {
    "mode": "n.training = True",
    "mode-for-later": "y = (n).forward(x, )\nn.training = True",
    "item-assigned": "v[0] = -1.",
    "handed-on-in-a-loop": "t = x\nfor i in range(2):\n  a = torch.neg_(t)\n  t = v",
    "handed-on-in-two-rounds": "t = x\nu = x\nfor i in range(9):\n"
    "  a = torch.neg_(t)\n  t = u\n  u = v",
    "while": "t = x\nb = True\nwhile b:\n  a = torch.neg_(t)\n  t = v\n  b = False",
    "one-of-two": "if torch.gt(torch.size(x, 0), 1):\n  w = v\nelse:\n  w = x\na = torch.neg_(w)",
    "after-a-return": "if torch.gt(torch.size(x, 0), 1):\n  return x\nelse:\n  pass\n"
    "a = torch.neg_(v)",
    "list-in-list": "l = [[v]]\na = torch.neg_(l[0][0])",
    "list-of-dict": 'd = {"a": v}\nl = torch.values(d)\na = torch.neg_(l[0])',
    "set-in-dict": 'd = annotate(Dict[str, Tensor], {})\ntorch._set_item(d, "a", v)',
    "modules-in-a-list": "l = [n, n]\na = torch.neg_(l[torch.size(x, 0)].running_var)",
    "tuple": f"a, b, = {_HERE}.pair(v, )\nc = torch.neg_(b)",
    "operator-by-a-name": "f = ops.aten.neg_\na = f(v)",
    "several-at-once": "a = torch._foreach_neg_([n.running_mean, v])",
    "einsum": 'a = torch.neg_(torch.einsum("i->i", [v]))',
    "memory-shared": "z = torch.zeros_like(v)\na = torch.set_(z, v)",
    "object": f"{_NEW}a = (h).__init__(v, )\nb = (h).change()",
    "object-in-a-loop": f"{_NEW}a = (h).__init__(x, )\n"
    "for i in range(2):\n  b = (h).change()\n  h.t = v",
    "unknown-function": "a = ops.custom.change(v)",
    "chosen-function": f"f = {_HERE}.negate\na = f(v)",
}  # fmt: skip
_SOUND = {
    "objects": f"{_NEW}a = (h).__init__(x, )\nb = (h).change()",
    "lists": "l = [x]\nb = torch.append(l, x)\nc = torch.relu_(torch.cat(l))",
    "loops": "t = x\nfor i in range(3):\n  t = torch.relu_(torch.add(t, 1))",
    "tasks": "def g():\n  return (n).forward(x, )\na = torch.wait(fork(g))",
    "modules": "l = [n, n]\ny = (l[torch.size(x, 0)]).forward(x, )",
    "checks": 'if torch.item(torch.any(torch.lt(v, 0))):\n  ops.prim.RaiseException("bad")\n'
    "else:\n  pass",
    "shapes": "z = torch.zeros_like(v)\na = torch.neg_(z)\nb = ops.prim.dtype(v)",
    "training": "t = torch.__not__(self.training)\nif t:\n  pass\nelse:\n  a = torch.neg_(v)",
}


def _with(code: str, folder: Path) -> Path:
    edit = partial(_run_before, code=code, functions=_FUNCTIONS)
    return build(folder, nn.ReLU, edit)


@pytest.mark.parametrize("lie", _LIES)
def test_a_lie_is_refused(lie: str, tmp_path: Path) -> None:
    path = _with(_LIES[lie], tmp_path)
    with pytest.raises(BncheckError, match="running statistics"):
        open_checkpoint(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", _SOUND)
def test_sound_code_is_read(code: str, tmp_path: Path) -> None:
    path = _with(_SOUND[code], tmp_path)
    torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    assert not open_checkpoint(path).modules["bn"].training


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        bn: Any = nn.BatchNorm1d(4)
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 1.5)
        bn.num_batches_tracked.fill_(100)
        self.bn: Any = bn


class _Alias(_Net):
    """The code calls an alias of torch's function, and hands on what that returns."""

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        y = batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False)
        return functional.relu(y)


class _Auxiliary(_Net):
    """Heads that are there for training alone stay as they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(x)
        if self.training:
            y = y + self.aux(x)
        return y


class _Twice(_Net):
    """The same norm under two names, of which the code uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.same = self.bn

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(x)
        return y


class _ByHand(_Net):
    """In place, and of a copy."""

    def forward(self, x: Tensor) -> Tensor:
        root = self.bn.running_var.clone().add_(1e-5).sqrt_()
        y = x.clone()
        y.sub_(self.bn.running_mean)
        y.div_(root)
        return y


class _Reused(_Net):
    """Takes the root of what is a root already."""

    def forward(self, x: Tensor) -> Tensor:
        var = self.bn.running_var.clone()
        var.add_(1e-5).sqrt_()
        y: Tensor = (x - self.bn.running_mean) / torch.sqrt(var)
        return y


class _Crossed(_Net):
    """Channels in another order."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.bn.running_mean.view(2, 2).t().reshape(4)
        y: Tensor = (x - mean) / torch.sqrt(self.bn.running_var + 1e-5)
        return y


class _Listed(_Net):
    """Keeps the variance in a list, too, and changes it there."""

    def __init__(self) -> None:
        super().__init__()
        self.held = [self.bn.running_var]

    def forward(self, x: Tensor) -> Tensor:
        self.held[0].neg_()
        y: Tensor = self.bn(x)
        return y


class _Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


def _scripted(net: nn.Module, path: Path, freeze: bool = False) -> Path:
    jit: Any = torch.jit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = jit.script(net.eval())
        made = jit.freeze(made) if freeze else made
        made.save(str(path))
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", [_Alias, _ByHand, _Twice])
def test_what_normalises_by_them_has_no_fault(net: type[_Net], tmp_path: Path) -> None:
    report = bncheck.inspect(_scripted(net(), tmp_path / "net.pt"))
    assert report.certain_layers
    assert not report.findings


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", [_Reused, _Crossed, _Listed])
def test_what_does_not_is_refused(net: type[_Net], tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match="running statistics"):
        open_checkpoint(_scripted(net(), tmp_path / "net.pt"))


@pytest.mark.filterwarnings("ignore")
def test_a_norm_that_is_never_called_harms_nobody(tmp_path: Path) -> None:
    report = bncheck.inspect(_scripted(_Auxiliary(), tmp_path / "net.pt"))
    (finding,) = report.findings
    assert (finding.rule, finding.layer, finding.severity) == ("BN101", "aux", Severity.INFO)
    assert "never calls this layer" in finding.message


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_module_without_norms_holds_its_constants(tmp_path: Path) -> None:
    path = _scripted(_Folded(), tmp_path / "net.pt", freeze=True)
    report = bncheck.inspect(path)
    assert not report.layers
    assert "constants of frozen code" in "".join(notes_on(report, InspectOptions()))
    assert [*bncheck.open_checkpoint(path).tensors] == ["CONSTANTS.c0", "CONSTANTS.c1"]


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_norm_by_hand_is_not_taken_for_none(tmp_path: Path) -> None:
    path = _scripted(_ByHand(), tmp_path / "net.pt", freeze=True)
    with pytest.raises(BncheckError, match="statistics have no names"):
        open_checkpoint(path)


def test_code_is_not_run(tmp_path: Path) -> None:
    """Nothing of what Python knows and TorchScript does not is followed, and none is run."""
    marker = tmp_path / "run"
    code = f'a = __import__("os").system("touch {marker}")\nb = open("{marker}", "w")'
    open_checkpoint(_with(code, tmp_path))
    assert not marker.exists()


def test_batch_norm_of_strangers(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("m", torch.zeros(4))
            self.register_buffer("v", torch.ones(4))
            self.m: Tensor
            self.v: Tensor

        def forward(self, x: Tensor) -> Tensor:
            return batch_norm(x, self.m, self.v)

    with pytest.raises(BncheckError, match="not known to be running statistics"):
        open_checkpoint(_scripted(Strange(), tmp_path / "net.pt"))
