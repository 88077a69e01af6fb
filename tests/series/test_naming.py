"""Names of snapshots, as trainers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bncheck import drift, inspect
from bncheck.series.naming import natural_key, rank_of, short_labels


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=2))
def test_numbers_in_names_order_as_numbers(numbers: list[int]) -> None:
    names = [f"run/epoch-{number}.pt" for number in numbers]
    assert sorted(names, key=natural_key) == [f"run/epoch-{n}.pt" for n in sorted(numbers)]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a/slim-epoch000.pth", "a/slim-epoch020.pth"], ["epoch000", "epoch020"]),
        (["model_1.pt", "model_10.pt"], ["1", "10"]),
        (["checkpoint-500", "checkpoint-1000"], ["500", "1000"]),
        (["a/model.pt", "b/model.pt"], ["a/model", "b/model"]),
        (["net.pt", "net-old.pt"], ["net", "net-old"]),
        (["only.pt"], ["only"]),
    ],
)
def test_labels_are_what_names_differ_in(names: list[str], labels: list[str]) -> None:
    assert short_labels([Path(name) for name in names]) == labels


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("step-10-rank0.pt", 0),
        ("ckpt_rank_12.pt", 12),
        ("mp_rank_03_model_states.pt", 3),
        ("frank1.pt", None),
        ("epoch-3.pt", None),
    ],
)
def test_ranks_are_read_from_names(name: str, rank: int | None) -> None:
    found = rank_of(Path(name))
    assert (found[1] if found else None) == rank


@pytest.mark.parametrize("wrapped", [(True, True), (False, True), (True, False)])
def test_layers_are_called_as_inspect_calls_those_of_the_last_file(
    wrapped: tuple[bool, bool], tmp_path: Path
) -> None:
    """Names in data are whole: a finding on one has the same fingerprint whoever made it."""
    for place, prefix in enumerate("module." if each else "" for each in wrapped):
        ones = np.ones(4, np.float32)
        held = {"a.running_mean": ones * place, "a.running_var": ones, "fc.weight": ones}
        state = {f"{prefix}{name}": tensor for name, tensor in held.items()}
        save_file(state, tmp_path / f"{place}.safetensors")
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    names = [layer.name for layer in inspect(paths[1]).layers]
    for reference in ("last", paths[0]):
        data: Any = drift(paths, reference=str(reference)).to_dict()
        assert data["layers"] == names
        assert data["w2"] != [[0, 0]]
        assert None not in data["w2"][0]
