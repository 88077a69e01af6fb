"""safetensors, one file and shards of an index; and a BatchNorm that loads what it knows."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.reading.loaders.agreement import FEW, check
from tests.zoo.states import statistics

_DATA = np.concatenate([np.arange(1, 9), -np.arange(1, 9)]).astype(np.float32).tobytes()
_NAMES = ("bn.running_mean", "bn.running_var", "bn.weight", "a.running_var", "__metadata__")
_DTYPES = ("F32", "F16", "BF16", "I32", "I8", "F64", "BOOL", "F99")
_ENTRY = st.tuples(
    st.sampled_from(_NAMES),
    st.sampled_from(_DTYPES),
    st.lists(st.integers(0, 8), max_size=2),
    st.integers(0, 8).map(lambda n: 8 * n),
    st.integers(0, 8).map(lambda n: 8 * n),
)
#: Tensors that lie one behind the other, as the format wants them.
_RUN = st.lists(
    st.tuples(st.sampled_from(_NAMES[:4]), st.sampled_from((("F32", 4), ("F16", 2), ("I32", 4))),
              st.integers(1, 6)),
    min_size=1, max_size=5,
)  # fmt: skip


def _in_a_run(parts: list[tuple[str, tuple[str, int], int]]) -> list[tuple[object, ...]]:
    entries: list[tuple[object, ...]] = []
    place = 0
    for name, (dtype, width), count in parts:
        entries.append((name, dtype, [count], place, place + width * count))
        place += width * count
    return entries


def _write(path: Path, entries: list[tuple[object, ...]], blanks: int, keep: int) -> Path:
    items = [
        f'"{name}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{start}, {end}]}}'
        for name, dtype, shape, start, end in entries
    ]
    header = ("{" + ", ".join(items) + "}" + " " * blanks).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + (_DATA * 4)[:keep])
    return path


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


@FEW
@given(
    entries=_RUN.map(_in_a_run) | st.lists(_ENTRY, max_size=3),
    blanks=st.integers(0, 3),
    more=st.sampled_from((0, 0, 0, 0, 4, -4)),
    shuffled=st.randoms(use_true_random=False),
)
def test_one_file(
    scratch: Path,
    entries: list[tuple[object, ...]],
    blanks: int,
    more: int,
    shuffled: object,
) -> None:
    keep = max([int(str(entry[4])) for entry in entries], default=0) + more
    shuffled.shuffle(entries)  # type: ignore[attr-defined]
    path = _write(scratch / "drawn.safetensors", entries, blanks, max(keep, 0))
    check(path, safetensors.torch.load_file)


_TENSORS = {
    f"{layer}.{role}": np.full(3, value, np.float32)
    for layer, value in (("bn", 1.0), ("a", 2.0))
    for role in ("running_mean", "running_var")
}
_SHARD = st.dictionaries(st.sampled_from(list(_TENSORS)), st.sampled_from((1.0, -1.0)))


def _load_shards(index: Path, backwards: bool) -> dict[str, Tensor]:
    """As transformers does: every shard that is named, whole, one over the other."""
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()), reverse=backwards)
    state: dict[str, Tensor] = {}
    for shard in shards:
        state |= safetensors.torch.load_file(index.parent / shard)
    return state


@FEW
@given(shards=st.tuples(_SHARD, _SHARD), places=st.dictionaries(
    st.sampled_from(list(_TENSORS)), st.sampled_from((0, 1)), min_size=1))  # fmt: skip
def test_shards(
    scratch: Path, shards: tuple[dict[str, float], dict[str, float]], places: dict[str, int]
) -> None:
    for number, contents in enumerate(shards):
        tensors = {name: torch.full((3,), factor) for name, factor in contents.items()}
        safetensors.torch.save_file(tensors, scratch / f"{number}.safetensors")
    index = scratch / "drawn.safetensors.index.json"
    named = {name: f"{number}.safetensors" for name, number in places.items()}
    index.write_text(json.dumps({"weight_map": named}))
    listed = {name: shards[number].get(name) for name, number in places.items()}

    for backwards in (False, True):
        check(
            index,
            lambda path, backwards=backwards: {  # type: ignore[misc]
                name: tensor
                for name, tensor in _load_shards(path, backwards).items()
                if name in listed  # of the others a note speaks
            },
        )


_SPELLINGS = (
    *("bn.running_mean", "bn.running_var", "bn.weight", "bn.bias", "bn.moving_variance"),
    *("bn._variance", "bn/running_var", "bn.running_covar", "bn.gamma", "bn.Running_Var"),
)
_KINDS = (torch.float32, torch.float16, torch.float64, torch.int32, torch.complex64, torch.bool)
_MADE = st.dictionaries(
    st.sampled_from(_SPELLINGS),
    st.tuples(
        st.sampled_from(_KINDS), st.sampled_from((1.0, -1.0)), st.sampled_from((4, 4, 4, 0, 8))
    ),
    max_size=2,
)


def _load_batchnorm(path: Path) -> dict[str, Tensor]:
    """What a BatchNorm holds after load_state_dict(strict=False)."""
    model = nn.ModuleDict({"bn": nn.BatchNorm2d(4)})
    model.load_state_dict(safetensors.torch.load_file(path), strict=False)
    return model.state_dict()


@pytest.mark.filterwarnings("ignore")
@FEW
@given(made=_MADE)
def test_roles(scratch: Path, made: dict[str, tuple[torch.dtype, float, int]]) -> None:
    state = dict(statistics())
    for name, (dtype, value, size) in made.items():
        state[name] = torch.full((size,), value).to(dtype)
    path = scratch / "roles.safetensors"
    safetensors.torch.save_file(state, path)
    check(path, _load_batchnorm)
