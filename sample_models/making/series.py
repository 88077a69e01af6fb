"""Snapshots of the trainings with and without BatchNorm, and the data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from nets import DigitNet

from making.states import net_with
from making.training import Bench, recorded


def snapshot(epoch: int) -> Callable[[Bench, Path], DigitNet]:
    def save(bench: Bench, path: Path) -> DigitNet:
        state = bench.run.snapshots[epoch]
        step = epoch * bench.run.steps_per_epoch
        torch.save({"state_dict": state, "epoch": epoch, "step": step}, path)
        return net_with(state)

    return save


def plain_snapshot(epoch: int) -> Callable[[Bench, Path], None]:
    """The same training without BatchNorm."""

    def save(bench: Bench, path: Path) -> None:
        run = bench.plain_run
        step = epoch * run.steps_per_epoch
        torch.save({"state_dict": run.snapshots[epoch], "epoch": epoch, "step": step}, path)

    return save


def record(bench: Bench, path: Path) -> DigitNet:
    """What a recorder wrote during the good training, and during the same without BatchNorm."""
    recorded(bench.digits, path, plain=False)
    return bench.healthy()


def plain_record(bench: Bench, path: Path) -> None:
    recorded(bench.digits, path, plain=True)


def training_data(bench: Bench, path: Path) -> None:
    np.savez_compressed(path, x=bench.digits.train_x.numpy(), y=bench.digits.train_y.numpy())


def test_data(bench: Bench, path: Path) -> None:
    np.savez_compressed(path, x=bench.digits.test_x.numpy(), y=bench.digits.test_y.numpy())
