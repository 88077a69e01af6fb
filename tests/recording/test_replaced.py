"""Layers that are replaced while the training runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module

from bncheck.layers.norm_layer import Assumptions
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.record import read_record
from bncheck.series.snapshot import read_snapshot
from tests.recording.training import Training


def fresh(training: Training) -> None:
    training.model[5] = nn.BatchNorm1d(16)


def added(training: Training) -> None:
    training.model.insert(7, nn.BatchNorm1d(16))


def activation(training: Training) -> None:
    training.model[2] = nn.GELU()


@pytest.mark.parametrize(
    ("change", "names"),
    [(fresh, "what 5 did"), (added, "what 7 did"), (activation, None)],
)
def test_a_layer_that_is_replaced_is_told_and_recorded(
    tmp_path: Path, change: object, names: str | None, logged: list[str]
) -> None:
    def hook(training: Training, step: int, x: Tensor) -> None:
        if step == 50:
            change(training)  # type: ignore[operator]

    training = Training(hook=hook, steps=100).run(tmp_path)
    assert not module._global_forward_pre_hooks, "the layers of before are still watched"
    assert [line for line in logged if "not recorded" in line] == logged
    assert [names in line for line in logged] == ([True] if names else [])  # type: ignore[operator]
    record = read_record(tmp_path)
    last = read_snapshot(record.file(record.entries[-1]), None, Assumptions())
    norms = {
        name: layer
        for name, layer in training.model.named_modules()
        if isinstance(layer, nn.BatchNorm1d)
    }
    assert last.states.keys() == norms.keys()
    for name, layer in norms.items():
        mean = last.states[name].mean
        assert mean is not None
        assert layer.running_mean is not None
        assert torch.equal(torch.from_numpy(mean), layer.running_mean)
        assert last.states[name].counter == int(layer.num_batches_tracked or 0)
    seen = open_checkpoint(record.file(record.entries[-2])).training
    assert seen is not None
    assert seen.seen.keys() == norms.keys()


def test_a_layer_of_another_width_begins_anew(tmp_path: Path) -> None:
    def wider(training: Training, step: int, x: Tensor) -> None:
        if step == 50:
            training.model[4] = nn.Linear(16, 24)
            training.model[5] = nn.BatchNorm1d(24)
            training.model[7] = nn.Linear(24, 4)

    training = Training(hook=wider, steps=100).run(tmp_path)
    # Nothing is said but the truth: no optimizer has been told of it.
    assert training.codes == {("BN301", "5")}
    assert read_record(tmp_path).entries[-1].step == 100
