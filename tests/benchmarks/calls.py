"""Calls of the Python API, on one thread, beside what they are made of.

    python -m tests.benchmarks.calls

prints a row of the table a line, as JSON. A cost in forwards is a multiple of plain forward passes
of the same network on the same data in the same round, because the machine's speed drifts.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.optim.swa_utils import update_bn

import bncheck
from bncheck.folding.program.exporting import export_program
from bncheck.folding.program.in_place import functional
from bncheck.folding.program.rewrite import rewrite
from bncheck.folding.weights import solve
from bncheck.graph.program.read import read_program
from tests.benchmarks.build import stale_statistics
from tests.benchmarks.networks import chain, efficientnet_b0, mlp, resnet18, resnet50
from tests.benchmarks.table import Peer, Row

BATCH = 32
Way = Callable[[], object]


def cpu(way: Way) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    way()
    return time.process_time() - start


def in_turns(ways: Mapping[str, Way], runs: int = 7) -> dict[str, float]:
    """The median CPU seconds of each way, all run in turns."""
    rounds = _rounds(ways, runs)
    return {name: statistics.median(costs[name] for costs in rounds) for name in ways}


def in_forwards(plain: Way, ways: Mapping[str, Way], runs: int) -> dict[str, float]:
    """The median over rounds of each way's cost as a multiple of the plain one's."""
    rounds = _rounds({"": plain, **ways}, runs)
    return {name: statistics.median(c[name] / c[""] for c in rounds) for name in ways}


@torch.no_grad()
def _rounds(ways: Mapping[str, Way], runs: int) -> list[dict[str, float]]:
    for way in ways.values():
        way()  # the first one warms up
    return [{name: cpu(way) for name, way in ways.items()} for _ in range(runs)]


def forward(model: nn.Module, batches: list[Tensor]) -> Way:
    return lambda: [model(x) for x in batches]


def healthy(model: nn.Module, batches: list[Tensor]) -> nn.Module:
    """With the statistics of these very data."""
    update_bn(batches, model)
    return model.eval()


def _fvcore(model: nn.Module, batches: list[Tensor]) -> Way | None:
    try:
        precise = importlib.import_module("fvcore.nn.precise_bn")
    except ImportError:
        return None
    training = copy.deepcopy(model).train()
    return lambda: precise.update_bn_stats(training, batches, len(batches))


def sound(model: nn.Module, samples: int, runs: int) -> Iterator[Row]:
    """A healthy ResNet-18 on images of 64 x 64."""
    batches = [torch.randn(BATCH, 3, 64, 64) for _ in range(samples // BATCH)]
    model, other = healthy(model, batches), copy.deepcopy(model)
    ways: dict[str, Way] = {
        "ours": lambda: bncheck.inspect(model, batches),
        "shape": lambda: bncheck.inspect(model, batches, shape=True),
        "update_bn": lambda: update_bn(batches, other),
    }
    fvcore = _fvcore(model, batches)
    costs = in_forwards(
        forward(model, batches), ways | ({"fvcore": fvcore} if fvcore else {}), runs
    )
    peers = (Peer("update_bn", costs["update_bn"]), Peer("fvcore", costs.get("fvcore")))
    work = f"`inspect(model, data)`, healthy, {samples:,} samples"
    yield Row(work, costs["ours"], peers, unit="forwards", wanted="1.10")
    yield Row("the same with `shape=True`", costs["shape"], unit="forwards", wanted="1.35")


def sick(
    model: nn.Module, batches: list[Tensor], name: str, wanted: tuple[str, ...], runs: int
) -> Iterator[Row]:
    """Stale statistics, data in another scale, and what mends the former."""
    model = healthy(model, batches)
    scaled = [2.5 * x + 1 for x in batches]
    stale = stale_statistics(copy.deepcopy(model))
    both = stale_statistics(copy.deepcopy(model), variances=True)
    ways: dict[str, Way] = {
        "`inspect(model, data)`, stale": lambda: bncheck.inspect(stale, batches),
        "`inspect(model, data)`, stale in variances, too": lambda: bncheck.inspect(both, batches),
        "`inspect(model, data)`, data in another scale": lambda: bncheck.inspect(model, scaled),
        "`recalibrate(model, data)`, stale": lambda: bncheck.recalibrate(stale, batches),
    }
    costs = in_forwards(forward(model, batches), ways, runs)
    for (work, cost), limit in zip(costs.items(), wanted, strict=True):
        yield Row(f"{work}, {name}", cost, unit="forwards", wanted=limit)


def small() -> Iterator[Row]:
    """Where a hook costs as much as a layer."""
    batches = [torch.randn(64, 64) for _ in range(22)]
    model = healthy(mlp(), batches)
    ways: dict[str, Way] = {"ours": lambda: bncheck.inspect(model, batches)}
    (cost,) = in_forwards(forward(model, batches), ways, 7).values()
    yield Row("`inspect(model, data)`, healthy, small MLP", cost, unit="forwards", wanted="2")
    yield from sick(mlp(), batches, "small MLP", ("8", "", "", "8"), 5)


def folding() -> Iterator[Row]:
    """Beside the export that a fold begins with."""
    for make, title, wanted in (
        (resnet50, "ResNet-50", "0.8"),
        (efficientnet_b0, "EfficientNet-B0", ""),
    ):
        model, x = make(), torch.randn(2, 3, 64, 64)
        ways: dict[str, Way] = {
            "ours": lambda m=model, x=x: bncheck.fold(m, (x,)),  # type: ignore[misc]
            "export": lambda m=model, x=x: torch.export.export(m, (x,)),  # type: ignore[misc]
            "free": lambda m=model, x=x: torch.export.export(  # type: ignore[misc]
                m, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
            ),
            "fuse": lambda m=model: fuse(m),  # type: ignore[misc]
        }
        costs = in_turns(ways, 2)
        work = f"`fold(model, x)`, {title}: what it adds to an export of {costs['export']:.2f} s"
        beyond = costs["ours"] - costs["export"]
        free = Peer("torch.export with a free batch", costs["free"] - costs["export"])
        peers = (free, Peer("torch.fx fuse", costs["fuse"]))
        yield Row(work, beyond, peers, wanted=wanted)


def rewriting() -> Iterator[Row]:
    """Plan and rewrite, apart from the export.

    What this process has imported and built before is frozen: somewhere in these rows Python would
    look through all of it for garbage, which takes longer than the work. No command holds so much
    that it did (`gc.callbacks` in folds of several networks: no collection of the oldest).
    """
    for number, wanted in ((100, "0.07"), (400, "0.3"), (1600, "1.2")):
        program = functional(export_program(chain(number), (torch.randn(2, 4, 8, 8),)))
        gc.collect()
        gc.freeze()
        cost = cpu(lambda p=program: rewrite(p, solve(read_program(p))))  # type: ignore[misc]
        gc.unfreeze()
        yield Row(f"planning and rewriting {number:,} BatchNorms", cost, wanted=wanted)


def rows() -> Iterator[Row]:
    """All of them."""
    yield from sound(resnet18(), 256, 3)
    yield from sound(resnet18(), 1024, 2)
    batches = [torch.randn(BATCH, 3, 64, 64) for _ in range(8)]
    yield from sick(resnet18(), batches, "256 samples", ("3.5", "", "4.3", "3.5"), 1)
    yield from small()
    yield from folding()
    yield from rewriting()


def say(found: Iterator[Row]) -> None:
    """A line of JSON a row, as soon as it is known."""
    for row in found:
        sys.stdout.write(json.dumps(dataclasses.asdict(row)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    say(rows())
