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
