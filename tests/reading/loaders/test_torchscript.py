"""torch.jit."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.assembler import name, text, tuple_
from tests.hostile.case import pack
from tests.hostile.torchscript_liars import load
from tests.reading.loaders.agreement import FEW, check

_CODE = """class {kind}(Module):
  __parameters__ = []
  __buffers__ = ["running_mean", "running_var", ]
  running_mean : Tensor
  running_var : Tensor
  training : bool
  eps : Final[float] = 1.0000000000000001e-05
  def forward(self: __torch__.{kind},
    x: Tensor) -> Tensor:
    mean = self.running_mean
    return torch.batch_norm(x, None, None, mean, self.running_var, False, 0.1, 1e-05, True)
{setstate}class Net(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  bn : __torch__.{kind}
  def forward(self: __torch__.Net,
    x: Tensor) -> Tensor:
    return (self.bn).forward(x, )
"""
_SETSTATE = """  def __setstate__(self: __torch__.{kind},
    state: Dict[str, Tensor]) -> NoneType:
    self.running_mean = state["running_mean"]
    self.running_var = torch.neg(state["running_var"])
    self.training = False
    return None
"""
_STORAGES: dict[str, tuple[str, npt.NDArray[Any]]] = {
    "0": ("FloatStorage", np.arange(1, 9, dtype=np.float32)),
    "1": ("FloatStorage", -np.arange(1, 9, dtype=np.float32)),
    "2": ("DoubleStorage", np.arange(1, 9, dtype=np.float64)),
    "3": ("HalfStorage", np.arange(1, 9, dtype=np.float16)),
}
_VIEW = st.tuples(
    st.sampled_from(list(_STORAGES)), st.integers(0, 4), st.integers(1, 4), st.integers(0, 2)
)
_KEY = st.sampled_from(("running_mean", "running_var", "running_covar"))
_SOUND = [("running_mean", ("0", 0, 4, 1)), ("running_var", ("0", 0, 4, 1))]


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)  # torch.jit knows no LONG4


def _tensor(key: str, offset: int, size: int, stride: int) -> bytes:
    kind, numbers = _STORAGES[key]
    pid = (text("storage"), name("torch", kind), text(key), text("cpu"), integer(len(numbers)))
    hooks = name("collections", "OrderedDict") + b")R"
    arguments = (tuple_(*pid) + b"Q", integer(offset), tuple_(integer(size)),
                 tuple_(integer(stride)), b"\x89", hooks)  # fmt: skip
    return name("torch._utils", "_rebuild_tensor_v2") + tuple_(*arguments) + b"R"


def _object(kind: str, state: list[tuple[str, bytes]]) -> bytes:
    items = b"}(" + b"".join(text(key) + value for key, value in state) + b"u"
    return name("__torch__", kind) + b")\x81" + items + b"b"


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.filterwarnings("ignore")
@FEW
@given(
    kind=st.sampled_from(("BatchNorm2d", "Moments")),
    entries=st.lists(st.tuples(_KEY, _VIEW), max_size=3),
    rebuilds=st.sampled_from((False, False, False, True)),
    order=st.sampled_from((None, None, b"little", b"little", b"little", b"big")),
    twice=st.booleans(),
)
def test_torchscript(
    scratch: Path,
    kind: str,
    entries: list[tuple[str, tuple[str, int, int, int]]],
    rebuilds: bool,
    order: bytes | None,
    twice: bool,
) -> None:
    state = [(key, _tensor(*view)) for key, view in [*_SOUND, *entries]]
    if not twice:
        state = list(dict(state).items())
    norm = _object(kind, state if rebuilds else [*state, ("training", b"\x89")])
    setstate = _SETSTATE.format(kind=kind) if rebuilds else ""
    net = _object("Net", [("training", b"\x89"), ("bn", norm)])
    records = {
        "m/data.pkl": b"\x80\x02" + net + b".",
        "m/constants.pkl": b"\x80\x02).",
        "m/code/__torch__.py": _CODE.format(kind=kind, setstate=setstate).encode(),
        "m/version": b"3\n",
    }
    records |= {f"m/data/{key}": numbers.tobytes() for key, (_, numbers) in _STORAGES.items()}
    if order is not None:
        records["m/byteorder"] = order
    check(pack(scratch / "drawn.pt", records), load)
