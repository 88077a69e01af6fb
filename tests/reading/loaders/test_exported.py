"""torch.export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.case import pack
from tests.hostile.exported_liars import (
    CONFIG,
    PROGRAM,
    Records,
    edit_json,
    folder_of,
    load,
    torch_file_beside,
)
from tests.hostile.programs import exported
from tests.reading.loaders.agreement import FEW, check

_NAMES = ("bn.running_var", "bn.running_mean", "bn.weight", "other", "bn.moving_variance")
_RECORDS = ("weight_0", "weight_2", "weight_3", "wide", "empty")
_ROLES = ("running_mean", "running_var", "weight", "bias")

_EDIT = st.one_of(
    st.tuples(st.just("record"), st.sampled_from(_NAMES), st.sampled_from(_RECORDS)),
    st.tuples(st.just("dtype"), st.sampled_from(_NAMES), st.sampled_from((4, 5, 6, 7, 8, 13))),
    st.tuples(st.just("offset"), st.sampled_from(_NAMES), st.integers(0, 5)),
    st.tuples(st.just("stride"), st.sampled_from(_NAMES), st.integers(0, 3)),
    st.tuples(st.just("first"), st.sampled_from(_NAMES), st.sampled_from((4, 7, 8))),
    st.tuples(st.just("argument"), st.sampled_from(_ROLES), st.sampled_from(_ROLES)),
    st.tuples(st.just("name"), st.sampled_from(_ROLES), st.sampled_from(_NAMES)),
    st.tuples(st.just("file"), st.none(), st.none()),
)


def _entry(config: dict[str, Any], name: str) -> dict[str, Any]:
    if name not in config:
        good = config["bn.running_var"]
        config[name] = {**good, "tensor_meta": dict(good["tensor_meta"])}
    entry: dict[str, Any] = config[name]
    return entry


def _edit_config(config: dict[str, Any], kind: str, name: str, value: Any) -> None:
    if kind == "first":  # one more tensor in the same record, in front of it
        entry = _entry(config, name)
        meta = {**entry["tensor_meta"], "dtype": value, "sizes": [{"as_int": 1}]}
        rest = dict(config)
        config.clear()
        config.update({"front": {**entry, "tensor_meta": meta}, **rest})
        return
    entry = _entry(config, name)
    meta = entry["tensor_meta"]
    if kind == "record":
        entry["path_name"] = value
    elif kind == "dtype":
        meta["dtype"] = value
    elif kind == "offset":
        meta["storage_offset"] = {"as_int": value}
    elif kind == "stride":
        meta["strides"] = [{"as_int": value}]


def _edit_program(content: Any, kind: str, role: str, value: str) -> None:
    module = content["graph_module"]
    if kind == "argument":  # the layer takes another tensor in this role
        for item in module["graph"]["nodes"][0]["inputs"]:
            if item["name"] == role:
                kinds = {"weight": "p", "bias": "p", "running_mean": "b", "running_var": "b"}
                item["arg"]["as_tensor"]["name"] = f"{kinds[value]}_bn_{value}"
    else:  # the input of this role is a tensor of another name
        for spec in module["signature"]["input_specs"]:
            for what in ("parameter", "buffer"):
                if spec.get(what, {}).get(f"{what}_name") == f"bn.{role}":
                    spec[what][f"{what}_name"] = value


def _apply(records: Records, kind: str, name: str, value: Any) -> None:
    if kind == "file":
        torch_file_beside(records)
    elif kind in ("argument", "name"):
        edit_json(records, PROGRAM, lambda content: _edit_program(content, kind, name, value))
    else:
        edit_json(
            records, CONFIG, lambda content: _edit_config(content["config"], kind, name, value)
        )


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.filterwarnings("ignore")
@FEW
@given(edits=st.lists(_EDIT, max_size=3))
def test_exported(scratch: Path, edits: list[tuple[str, str, Any]]) -> None:
    records = exported(scratch)
    top = folder_of(records)
    wide = np.array([1, -1, 2, -2, 3, -3, 4, -4, 5, -5], np.float32)
    records |= {f"{top}data/weights/wide": wide.tobytes(), f"{top}data/weights/empty": b""}
    for edit in edits:
        _apply(records, *edit)
    check(pack(scratch / "drawn.pt2", records), load)
