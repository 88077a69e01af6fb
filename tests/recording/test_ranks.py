"""Two real processes, with gloo: process 0 records what both see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bncheck
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.record import read_record
from bncheck.reading.training_state import TrainingState
from bncheck.recording.batch import Batch
from bncheck.recording.meter import BatchMeter
from bncheck.recording.modules import Watched
from bncheck.recording.observed import Observed
from bncheck.recording.ranks import Ranks
from tests.launching import forked, launched
from tests.recording.ranks import main
from tests.recording.training import net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    said = folder / "said"
    process = forked(launched, main, folder, said=said)
    process.join(120)
    assert process.exitcode == 0, (said / "err").read_text()
    return folder


def told(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text())[name] for rank in (0, 1)]


def test_two_ranks_with_different_data_are_found_by_rank_0(folder: Path) -> None:
    first, second = told(folder, "other")
    (line,) = first["said"]  # the first layer takes the difference off
    # Of two neither is the odd one.
    assert "step 10: BN303 1: the batches of two processes are W2" in line
    assert "from one another from step 1 to step 10" in line
    assert second["said"] == []
    (finding,) = bncheck.drift([folder / "other"]).findings
    assert (finding.rule, finding.layer) == ("BN303", "1")
    assert (finding.evidence["rank"], finding.evidence["step"]) == (None, 10)


def test_ranks_with_the_same_data_are_silent_and_merged(folder: Path) -> None:
    assert [rank["said"] for rank in told(folder, "same")] == [[], []]
    assert bncheck.drift([folder / "same"]).findings == ()
    state = open_checkpoint(folder / "same").training
    assert state is not None
    assert all(seen.images == 128 for seen in state.seen.values())


def test_a_recorder_in_one_rank_alone_is_one_warning_and_holds_nobody_up(folder: Path) -> None:
    first, _ = told(folder, "alone")
    (line,) = first["said"]
    assert "another process told nothing of its batch" in line
    assert [entry.step for entry in read_record(folder / "alone").entries][-1] == 60
    same = [rank["weights"] for rank in (*told(folder, "same"), *told(folder, "alone"))]
    assert len(set(same)) == 1


@pytest.mark.parametrize("name", ["sharded", "wrapped"])
def test_sharded_layers_are_recorded_without_what_they_hold_in_parts(
    folder: Path, name: str
) -> None:
    """Their statistics are whole in every process, and batches are merged as ever."""
    first, second = told(folder, name)
    assert first["said"][0] == second["said"][0]
    assert "not recorded: weight and bias of layers that are sharded" in first["said"][0]
    assert [line.split(":")[1].strip()[:5] for line in first["said"][1:]] == (
        ["BN303"] if name == "sharded" else []
    )
    checkpoint = open_checkpoint(folder / name)
    assert {"1.running_mean", "5.running_var", "5.num_batches_tracked"} <= set(checkpoint.tensors)
    assert checkpoint.training is not None
    assert {seen.images for seen in checkpoint.training.seen.values()} == {128}
    last = 20 if name == "sharded" else 60
    assert [entry.step for entry in read_record(folder / name).entries][-1] == last


@pytest.mark.parametrize("synchronised", [False, True])
def test_synchronised_layers_share_one_batch_of_all_processes(synchronised: bool) -> None:
    """On a CPU SyncBatchNorm has no group, so that the other process's batch is given."""
    model = net()
    if synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    watched = Watched.of("", model, False)
    observed = Observed(watched, BatchMeter(watched, print, print))
    observed.arm(0, False, False)
    model(torch.randn(64, 8))
    observed.disarm()
    state, path = TrainingState(1), Path("run")
    observation = observed.observe(state, path, TwoProcesses("run"), print, print)
    assert observation is not None
    told = observation.state.seen["1"]
    assert told.images == 128
    assert (told.apart is None) == synchronised
    far = told.log_variance_ratio or 0.0
    assert (far > 1) == synchronised  # the distance between the processes is in the variance


class TwoProcesses(Ranks):
    """The other one's batches have means 4 higher."""

    def gathered(
        self, tag: str, batches: Mapping[str, Batch], channels: Mapping[str, int]
    ) -> list[dict[str, Batch]]:
        others = {name: replace(batch, mean=batch.mean + 4) for name, batch in batches.items()}
        return [dict(batches), others]
