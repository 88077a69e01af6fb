"""What test_ranks.py runs in two processes: trainings.

One on the same data, one in which rank 1 sees other data, and one that only rank 0 records.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from bncheck.recording import Recorder, ranks
from tests.recording.said import Said
from tests.recording.training import batch, net


def sharded() -> nn.Module:
    """Every layer's parameters lie in parts, as DTensors."""
    model = net()
    for layer in (*model, model):
        if list(layer.parameters()):
            fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    return model


def wrapped() -> nn.Module:
    """The older way, with one flat parameter for all."""
    return FullyShardedDataParallel(net(), device_id=torch.device("cpu"), use_orig_params=True)


def train(
    folder: Path, rank: int, other_data: bool, everywhere: bool,
    make: Callable[[], nn.Module] = lambda: nn.parallel.DistributedDataParallel(net()),
    steps: int = 60,
) -> dict[str, Any]:  # fmt: skip
    said = Said()
    logging.getLogger("bncheck.recording").handlers = [said]
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(rank)
    recorder = None
    if everywhere or not rank:
        recorder = Recorder(model, folder, every=10, optimizer=optimizer)
    for _ in range(steps):
        x, y = batch(generator)
        loss = nn.functional.cross_entropy(model(x + 2 * (other_data and rank == 1)), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if recorder is not None:
            recorder.step(loss=loss)
    if recorder is not None:
        recorder.close()
    weights = sum(float(local(p).double().sum()) for p in model.parameters())
    return {"said": said.lines, "weights": weights}


def local(parameter: Any) -> Any:
    """What this process holds of it."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter.detach()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    told = {
        "same": train(folder / "same", rank, False, True),
        "other": train(folder / "other", rank, True, True),
        "sharded": train(folder / "sharded", rank, True, True, sharded, steps=20),
        "wrapped": train(folder / "wrapped", rank, False, True, wrapped),
    }
    ranks._PATIENCE = timedelta(seconds=1)  # type: ignore[misc]
    told["alone"] = train(folder / "alone", rank, False, False)
    (folder / f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()
