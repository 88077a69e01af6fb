"""Layers are recognised whatever wraps the model, and never taken for each other."""

from __future__ import annotations

import pytest

from bncheck.core.wrappers import LayerNames, without

WRAPPED = (
    "module.aux.1", "_orig_mod.aux.1", "module._orig_mod.aux.1", "model.aux.1",
    "model._orig_mod.aux.1", "ema_model.module.aux.1", "aux._checkpoint_wrapped_module.1",
    "_fsdp_wrapped_module.aux._fsdp_wrapped_module.1", "_forward_module.model.aux.1",
)  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("pattern", ["aux.1", "aux.*", "module.aux.1", "_orig_mod.aux.*"])
def test_a_pattern_means_the_layer_whatever_wraps_it(name: str, pattern: str) -> None:
    other = name.replace("aux", "head")
    names = LayerNames.of([name, other])
    assert names.match(name, pattern)
    assert not names.match(other, pattern)


def test_two_that_only_wrappers_tell_apart_are_told_apart() -> None:
    names = LayerNames.of(["model.bn1", "ema_model.module.bn1"])
    assert not names.match("ema_model.module.bn1", "bn1")
    assert not names.match("model.bn1", "ema_model.*")
    assert names.match("ema_model.module.bn1", "ema_model.*")
    assert names.counterparts(LayerNames.of(["bn1"])) == {}
    assert LayerNames.of(["bn1"]).counterparts(names) == {}


def test_a_pattern_for_all_that_a_wrapper_holds_is_not_for_everything() -> None:
    assert not LayerNames.of(["backbone.bn1", "head.bn1"]).match("head.bn1", "model.*")
    assert not LayerNames.of(["head.module.bn1", "bn1"]).match("bn1", "module.bn1")


def test_counterparts_are_found_under_their_own_names_first() -> None:
    now, then = LayerNames.of(["module.a", "b", "module.b"]), LayerNames.of(["a", "b"])
    assert now.counterparts(then) == {"module.a": "a", "b": "b"}


def test_a_name_of_nothing_but_wrappers_stays() -> None:
    assert without("module") == "module"
    assert without("model.module") == "model.module"
