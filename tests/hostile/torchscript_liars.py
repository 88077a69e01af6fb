"""TorchScript archives that look sound and in which torch.jit.load finds other numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.hostile.case import FOUND, READ, REFUSED, add, pack, records_of
from tests.zoo import states as zoo

Records = dict[str, bytes]
_BAD = -torch.ones(4)


class _Negated(nn.BatchNorm2d):
    """Keeps the negative of the variance in the file."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)

    @torch.jit.export
    def __getstate__(self):  # type: ignore[no-untyped-def]
        return (self.running_mean, self.running_var, self.num_batches_tracked, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, Tensor, bool]):  # type: ignore[no-untyped-def]
        self.running_mean = state[0]
        self.running_var = -state[1]
        self.num_batches_tracked = state[2]
        self.training = state[3]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var)


class _Moments(nn.Module):
    """The same in a class that is not called a norm, and calls none."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))
        self.running_mean: Tensor
        self.running_var: Tensor

    @torch.jit.export
    def __getstate__(self):  # type: ignore[no-untyped-def]
        return (self.running_mean, self.running_var, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, bool]):  # type: ignore[no-untyped-def]
        self.running_mean = state[0]
        self.running_var = -state[1]
        self.training = state[2]

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.running_mean) / self.running_var


class _Packed(nn.Module):
    """As quantised modules are: rebuilt, and nobody's statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.rand(4)

    @torch.jit.export
    def __getstate__(self):  # type: ignore[no-untyped-def]
        return (self.table, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]):  # type: ignore[no-untyped-def]
        self.table = state[0] * 2
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table[0]


class _Net(nn.Module):
    def __init__(self, last: Callable[..., Any]) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(4)
        self.bn.load_state_dict(zoo.statistics(), strict=False)
        self.last: nn.Module = last(4) if last in (_Negated, _BadNorm, _Computed) else last()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.bn(x))
        return y


@cache
def _scripted(last: Callable[..., Any], freeze: bool = False) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = torch.jit.script(_Net(last).eval())
        if freeze:
            module = torch.jit.freeze(module, optimize_numerics=False)
        data: bytes = module.save_to_buffer()
    return data


def build(
    folder: Path,
    last: Callable[..., Any],
    edit: Callable[[Records], object] = lambda records: None,
    freeze: bool = False,
) -> Path:
    path = folder / "model.pt"
    path.write_bytes(_scripted(last, freeze))
    records = records_of(path)
    edit(records)
    return pack(path, records)


def load(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state: dict[str, Tensor] = torch.jit.load(path).state_dict()  # type: ignore[no-untyped-call]
    return state


def _top(records: Records) -> str:
    return next(iter(records)).partition("/")[0] + "/"


def _byte_order(records: Records) -> None:
    """Numbers that are sound when they are read the other way round."""
    records[_top(records) + "byteorder"] = b"big"
    for name, data in records.items():
        if "/data/" in name:
            records[name] = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))


def _older(records: Records) -> None:
    records[_top(records) + "model.json"] = b"{}"


def _nested_call(records: Records) -> None:
    for name, data in records.items():
        if name.endswith(".py"):
            assert b"torch.batch_norm(" in data
            first = b"torch.batch_norm(torch.add(x, torch.relu(x), alpha=2), "
            at = data.index(b"torch.batch_norm(")
            end = data.index(b",", at) + 2
            records[name] = data[:at] + first + data[end:]


class _Unnamed(nn.Module):
    """Normalises by buffers that are not called like statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("m", torch.zeros(4))
        self.register_buffer("v", _BAD.clone())
        self.m: Tensor
        self.v: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.m, self.v)


class _Computed(nn.BatchNorm2d):
    """Normalises by the negative of what it keeps."""

    def forward(self, x: Tensor) -> Tensor:
        running_mean, running_var = self.running_mean, self.running_var
        if running_mean is not None and running_var is not None:
            running_var = -running_var
            return nn.functional.batch_norm(x, running_mean, running_var)
        return x


class _BadNorm(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.running_var = _BAD.clone()


class _Shared(_Net):
    """Keeps the variance under a second name, by which it could be changed."""

    def __init__(self, last: Callable[..., Any]) -> None:
        super().__init__(last)
        assert self.bn.running_var is not None
        self.register_buffer("scale", self.bn.running_var)
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.scale.neg_()
        y: Tensor = self.bn(x)
        return y


def _run_before(records: Records, code: str, functions: str = "") -> None:
    """Code that runs before the rest of forward, where `v` is the variance of the norm."""
    name = _top(records) + "code/__torch__/tests/hostile/torchscript_liars.py"
    head, signature, body = records[name].decode().partition(") -> Tensor:\n")
    lines = ["n = self.bn", "v = n.running_var", *code.splitlines()]
    text = "".join(f"    {line}\n" for line in lines)
    records[name] = f"{head}{signature}{text}{body}\n{functions}".encode()


def _in_functional(records: Records, old: str, new: str) -> None:
    name = _top(records) + "code/__torch__/torch/nn/functional.py"
    assert old in records[name].decode()
    records[name] = records[name].decode().replace(old, new).encode()


class _Rebuilt(_Packed):
    """The same in place, of a tensor that a norm may share."""

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]):  # type: ignore[no-untyped-def]
        self.table = state[0].neg_()
        self.training = state[1]


class _SharedState(_Net):
    """Has one whose table is the variance of a norm."""

    def __init__(self, last: Callable[..., Any]) -> None:
        super().__init__(last)
        assert self.bn.running_var is not None
        self.last.table = self.bn.running_var


def _build_shared(folder: Path, net: Callable[..., nn.Module], last: Callable[..., Any]) -> Path:
    path = folder / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = torch.jit.script(net(last).eval())
    path.write_bytes(module.save_to_buffer())
    return path


_HERE = "__torch__.tests.hostile.torchscript_liars"
_NEGATE = "def negate(t: Tensor) -> Tensor:\n  return torch.neg_(t)\n"
_HAND = f"def hand(t: Tensor) -> Tensor:\n  return {_HERE}.negate(t, )\n"
_TRAINING = "t = self.training\nif t:\n  a = torch.neg_(v)\nelse:\n  "
_CALL = "running_mean, running_var, training"
for _name, _codes, _what, _code, _functions in (
    ("in-place", REFUSED, "an operator in place", "a = torch.neg_(v)", ""),
    ("nested", REFUSED, "the same within an expression, over lines",
     "a = torch.add(x, torch.sub_(\n\nv, 5))", ""),
    ("view", REFUSED, "a view of it", "w = torch.slice(v, 0, 0, 2)\na = torch.fill_(w, -5.)", ""),
    ("parts", REFUSED, "parts of it", "w, u, = torch.split(v, 2)\na = torch.neg_(u)", ""),
    ("list", REFUSED, "a list with it",
     "l = [v]\nfor i in range(torch.len(l)):\n  e = l[i]\n  a = torch.neg_(e)", ""),
    ("appended", REFUSED, "a list that it is put in",
     "l = annotate(List[Tensor], [])\nb = torch.append(l, v)\na = torch.neg_(l[0])", ""),
    ("dict", REFUSED, "a dict with it", 'd = {"a": v}\na = torch.neg_(d["a"])', ""),
    ("out", REFUSED, "as where an operator puts its result", "a = torch.neg(v, out=v)", ""),
    ("assigned", REFUSED, "another tensor in its place", "n.running_var = torch.neg(v)", ""),
    ("function", REFUSED, "a function that is given it", f"a = {_HERE}.negate(v, )", _NEGATE),
    ("functions", REFUSED, "a function by way of another", f"f = {_HERE}.hand\na = f(v, )",
     _HAND + _NEGATE),
    ("argument", REFUSED, "a function that is given it behind much else",
     f"a = {_HERE}.negate({'1, ' * 20}v, )",
     f"def negate({''.join(f'p{n}: int, ' for n in range(20))}t: Tensor) -> Tensor:\n"
     "  return torch.neg_(t)\n"),
    ("fork", REFUSED, "a task beside", "def __forked_function():\n  return torch.neg_(v)\n"
     "f = fork(__forked_function)\na = torch.wait(f)", ""),
    ("else", REFUSED, "outside training", f"{_TRAINING}b = torch.neg_(v)", ""),
    ("other-mode", REFUSED, "in what is called training and is not",
     "t = self.training\nt = True\nif t:\n  a = torch.neg_(v)\nelse:\n  pass", ""),
    ("training", READ, "no lie: as norms do in training only", f"{_TRAINING}pass", ""),
    ("activation", READ, "no lie: an activation in place of what is computed of it",
     "w = torch.add(v, 1e-05)\na = torch.sqrt_(w)", ""),
):  # fmt: skip
    add(f"torchscript-lie-writes-{_name}", _codes, f"code that writes into the variance: {_what}",
        partial(build, last=nn.ReLU,
                edit=partial(_run_before, code=_code, functions=_functions)))  # fmt: skip
add("torchscript-lie-writes-shared", REFUSED, "the same by another name of its storage",
    partial(_build_shared, net=_Shared, last=nn.ReLU))  # fmt: skip
add("torchscript-lie-setstate-shared", REFUSED, "a __setstate__ that gets a norm's variance",
    partial(_build_shared, net=_SharedState, last=_Rebuilt))  # fmt: skip
add("torchscript-lie-swapped", REFUSED, "a functional.batch_norm that takes them for one another",
    partial(build, last=nn.ReLU, edit=partial(
        _in_functional, old=_CALL, new="running_var, running_mean, training")))  # fmt: skip
add("torchscript-lie-reassigned", REFUSED, "a functional.batch_norm that changes what it is given",
    partial(build, last=nn.ReLU, edit=partial(
        _in_functional, old="  if training:\n    _4",
        new="  running_var = running_mean\n  if training:\n    _4")))  # fmt: skip
for _name, _codes, _what, _build in (
    ("none", READ, "none: that the lies are told of a good one", partial(build, last=nn.ReLU)),
    ("setstate", REFUSED, "a norm whose __setstate__ changes it", partial(build, last=_Negated)),
    ("setstate-of-a-stranger", REFUSED, "the same of a class that is not called a norm",
     partial(build, last=_Moments)),
    ("byte-order", REFUSED, "a byte order that torch.jit.load ignores",
     partial(build, last=nn.ReLU, edit=_byte_order)),
    ("nested-call", FOUND, "a frozen batch_norm of what another call returns",
     partial(build, last=_BadNorm, edit=_nested_call, freeze=True)),
    ("unnamed-statistics", REFUSED, "a batch_norm of buffers that are called m and v",
     partial(build, last=_Unnamed)),
    ("computed-statistics", REFUSED, "a batch_norm of the negative variance",
     partial(build, last=_Computed)),
    ("packed", READ, "no lie: parameters that are unpacked", partial(build, last=_Packed)),
):  # fmt: skip
    add(f"torchscript-lie-{_name}", _codes, _what, _build)
add("torchscript-older", REFUSED, "a model.json, which makes it a file of PyTorch 1.0",
    partial(build, last=nn.ReLU, edit=_older))  # fmt: skip
