"""torch.distributed.checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from tests.hostile.distributed_liars import VAR, Builder, load
from tests.reading.loaders.agreement import FEW, check

_KEYS = (VAR, "model.bn.running_mean", "model.bn.bias", "model.bn.other", "spare")
_DTYPES = (torch.float32, torch.float64, torch.int8, torch.float16)

_PIECE = st.tuples(st.integers(0, 4), st.integers(1, 4), st.sampled_from((1.0, -1.0, 200.0)),
                   st.sampled_from(_DTYPES))  # fmt: skip
_PIECES = st.lists(_PIECE, min_size=1, max_size=3)
_WHOLE = st.just([(0, 4, 1.0, torch.float32)])
_PATH = st.sampled_from(
    [("model", "bn.running_var"), ("model", "bn", "running_var"), ("bn.running_var",), ("x",),
     ("model",), ("model.bn.running_var",), ("model", "bn.running_mean")]
)  # fmt: skip
_EDIT = st.one_of(
    st.tuples(st.just("tensor"), st.sampled_from(_KEYS), _PIECES | _WHOLE),
    st.tuples(st.just("size"), st.sampled_from(_KEYS), st.integers(1, 8)),
    st.tuples(st.just("dtype"), st.sampled_from(_KEYS), st.sampled_from(_DTYPES)),
    st.tuples(st.just("path"), st.sampled_from(_KEYS), _PATH),
    st.tuples(st.just("swap"), st.sampled_from(_KEYS), st.sampled_from(_KEYS)),
    st.tuples(st.just("flat"), st.none(), st.none()),
)


def _pieces(parts: list[tuple[int, int, float, torch.dtype]]) -> list[tuple[int, Tensor]]:
    return [(start, torch.full((n,), value).to(dtype)) for start, n, value, dtype in parts]


def _apply(made: Builder, kind: str, key: str, value: object) -> None:
    entry = made.metadata.state_dict_metadata.get(key)
    if kind == "tensor":
        made.tensor(key, _pieces(value))  # type: ignore[arg-type]
    elif kind == "flat":
        made.metadata.planner_data = None
    elif kind == "path" and made.metadata.planner_data is not None:
        made.metadata.planner_data[key] = value
    elif not isinstance(entry, TensorStorageMetadata):
        return
    elif kind == "size":
        entry.size = torch.Size([value])  # type: ignore[list-item]
    elif kind == "dtype":
        entry.properties.dtype = value  # type: ignore[assignment]
    elif kind == "swap":
        places = made.metadata.storage_data
        mine, others = ([p for p in places if p.fqn == k] for k in (key, value))
        for one, other in zip(mine, others, strict=False):
            places[one], places[other] = places[other], places[one]


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.filterwarnings("ignore")
@FEW
@given(edits=st.lists(_EDIT, max_size=3))
def test_distributed(scratch: Path, edits: list[tuple[str, str, object]]) -> None:
    made = Builder(scratch)
    for edit in edits:
        if made.metadata.planner_data is None and edit[0] == "tensor":
            continue
        _apply(made, *edit)
    check(made.write(), load)
