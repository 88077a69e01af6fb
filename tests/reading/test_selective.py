"""What is read of a file: the part that is asked for, and of large ones next to nothing."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bncheck.core.errors import BncheckError
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.source import SourceFile
from tests.zoo import large, states
from tests.zoo.torch_zip import zip_model_and_ema

NOTHING_GIVEN = Assumptions()


def test_key_takes_another_subtree(tmp_path: Path) -> None:
    path = zip_model_and_ema(tmp_path).path
    assert [tree.path for tree in open_checkpoint(path).alternatives] == ["ema"]
    other = open_checkpoint(path, "ema")
    for name, numbers in states.arrays(states.state(1)).items():
        assert np.array_equal(other.tensors[name], numbers)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_only_the_norm_layers_are_read(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    expected = large.write_large(path, form, megabytes=200)
    opened: list[SourceFile] = []
    original = SourceFile.__init__

    def counting(self: SourceFile, path: Path) -> None:
        original(self, path)
        opened.append(self)

    monkeypatch.setattr(SourceFile, "__init__", counting)
    (layer,) = find_layers(open_checkpoint(path), NOTHING_GIVEN)
    assert layer.mean is not None
    assert np.array_equal(layer.mean, states.numpy_of(expected["bn.running_mean"]))
    size = path.stat().st_size
    path.unlink()
    assert size > 200 << 20
    assert 0 < sum(file.bytes_read for file in opened) < size / 100


def _quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("kind", "make"),
    [("sparse tensor", lambda: torch.eye(3).to_sparse()), ("qtensor", _quantized)],
)
def test_a_tensor_of_another_kind_is_known_and_not_read(
    kind: str, make: Callable[[], torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    torch.save({**states.statistics(), "embedding": make()}, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensors["bn.running_var"].size
    with pytest.raises(BncheckError, match=rf"does not read \({kind}\)"):
        _ = checkpoint.tensors["embedding"]


def test_a_part_below_the_chosen_one_is_named(tmp_path: Path) -> None:
    inner = {"ema": states.statistics()}
    outer = {**states.statistics(), "b.running_mean": torch.rand(4), **inner}
    torch.save({"state_dict": outer}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.key == "state_dict"
    assert [tree.path for tree in checkpoint.alternatives] == ["state_dict.ema"]


def test_two_parts_of_one_path_are_both_named(tmp_path: Path) -> None:
    torch.save({0: states.statistics(), "0": states.statistics()}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert [checkpoint.key, *(tree.path for tree in checkpoint.alternatives)] == ["0", "0"]


def test_a_counter_of_a_state_dict_is_read(tmp_path: Path) -> None:
    torch.save(Counter(states.statistics()), tmp_path / "model.pt")
    found = open_checkpoint(tmp_path / "model.pt").tensors
    assert {name: found[name].tolist() for name in found} == {
        name: numbers.tolist() for name, numbers in states.arrays(states.statistics()).items()
    }


def test_a_wrong_key_lists_models_and_what_optimizers_keep_only_where_nothing_else_is(
    tmp_path: Path,
) -> None:
    state = {"running_mean": torch.zeros(2), "running_var": torch.ones(2)}
    trees = {"a_optim": {"w": torch.ones(2)}, "z_net": {"bn": state}, "plain": {"w": torch.ones(2)}}
    torch.save(trees, tmp_path / "x.pt")
    with pytest.raises(BncheckError, match=r"choose from z_net.*, plain$"):
        open_checkpoint(tmp_path / "x.pt", "qqqqqq")
    torch.save({"a_optim": {"w": torch.ones(2)}}, tmp_path / "y.pt")
    with pytest.raises(BncheckError, match=r"choose from a_optim$"):
        open_checkpoint(tmp_path / "y.pt", "qqqqqq")
