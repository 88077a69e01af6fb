"""What is read without pydantic is what pydantic would read; what it would refuse is left to it."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bncheck.policy.config.plain import plain
from bncheck.policy.config.settings import Settings
from tests.policy.config.test_load import FULL

ADAPTER = TypeAdapter(Settings)


def by_pydantic(table: Any) -> Settings | None:
    try:
        return ADAPTER.validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError:
        return None


def test_a_full_table_is_read_alike() -> None:
    table = tomllib.loads(FULL)["tool"]["bncheck"]
    settings = plain(Settings, table)
    assert settings is not None
    assert settings == by_pydantic(table)


VALUES = st.recursive(
    st.one_of(
        st.sampled_from(["error", "BN101", "warning", "x"]), st.booleans(), st.integers(-3, 3),
        st.floats(allow_nan=False), st.just(10**400), st.just(float("nan")), st.dates(),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=3,
)  # fmt: skip
KEYS = (
    "select", "ignore", "severity", "fail-on", "baseline", "thresholds.w2-warning",
    "against.w2-growth", "models.m.checkpoint", "models.m.model-args", "models.m.samples",
    "models.m.mean", "models.m.momentum", "models.m.fold", "models.m.fold.keep", "models.m.eps",
    "models.m.inspect.w2-error", "models.m.size", "models.m.unknown", "unknown",
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_values_of_any_kind_are_read_alike_or_left(entries: dict[str, Any]) -> None:
    table: dict[str, Any] = {}
    for key, value in entries.items():
        *path, last = key.split(".")
        place: Any = table
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                return
        place[last] = value
    if isinstance(model := table.get("models", {}).get("m"), dict):
        model.setdefault("checkpoint", "x.pt")
    read = plain(Settings, table)
    assert read is None or read == by_pydantic(table)


@pytest.mark.parametrize(
    "table",
    [
        {"select": ["BN1"], "fail-on": "never"},
        {"severity": {"BN109": "warning"}, "thresholds": {"w2-warning": 1}},
        {"models": {"m": {"checkpoint": "x.pt", "mean": [0, 0.5], "model-args": {"a": [1, {}]}}}},
    ],
)
def test_usual_tables_need_no_pydantic(table: dict[str, Any]) -> None:
    settings = plain(Settings, table)
    assert settings is not None
    assert settings == by_pydantic(table)
