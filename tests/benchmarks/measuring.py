"""What measuring costs beside a plain eval forward: CPU time, one thread, interleaved.

ResNet-18 with 20 BatchNorm layers on images of 64 x 64 in batches of 32. The ratio of each round
is taken against the plain forward of the same round, because the machine's speed drifts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bncheck.data import open_data
from bncheck.measuring.cascades import Cascade, run_cascade
from bncheck.measuring.distributed import Processes
from bncheck.measuring.histogram import ShapeWatch
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.norms import norms_of
from bncheck.measuring.run import Run
from tests.benchmarks.networks import resnet18
from tests.benchmarks.table import show

ROUNDS = 15
BATCHES = 2
BATCH = 32


def plain(model: nn.Module, batches: list[Tensor]) -> None:
    """The forward alone."""
    with torch.no_grad():
        for x in batches:
            model(x)


def moments(model: nn.Module, batches: list[Tensor]) -> None:
    """What inspect does with a healthy model."""
    run_cascade(Instrumented.of(model), open_data(batches), Cascade.EVAL, Run())


def shape(model: nn.Module, batches: list[Tensor]) -> None:
    """The same with --shape."""
    with ShapeWatch(norms_of(model), True, Processes()):
        moments(model, batches)


def batch_cascade(model: nn.Module, batches: list[Tensor]) -> None:
    """What inspect does next where something is wrong."""
    run_cascade(Instrumented.of(model), open_data(batches), Cascade.BATCH, Run())


def naive_hooks(model: nn.Module, batches: list[Tensor]) -> None:
    """torch.var_mean of every layer's input."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        torch.var_mean(args[0], dim=(0, 2, 3))

    handles = [n.module.register_forward_pre_hook(hook) for n in norms_of(model)]
    plain(model, batches)
    for handle in handles:
        handle.remove()


def update_bn(model: nn.Module, batches: list[Tensor]) -> None:
    """torch.optim.swa_utils.update_bn."""
    torch.optim.swa_utils.update_bn(batches, model)
    model.eval()


#: What is timed, and what the issue allows.
CONTENDERS: dict[str, tuple[Callable[[nn.Module, list[Tensor]], None], str]] = {
    "plain eval forward": (plain, ""),
    "bncheck, eval cascade": (moments, "<= 1.12"),
    "bncheck, with --shape": (shape, "<= 1.35"),
    "bncheck, batch cascade": (batch_cascade, ""),
    "var_mean hooks": (naive_hooks, ""),
    "torch update_bn": (update_bn, ""),
}


def main(rounds: int = ROUNDS) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batches = resnet18(), [torch.randn(BATCH, 3, 64, 64) for _ in range(BATCHES)]
    for run, _ in CONTENDERS.values():
        run(model, batches)
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, (run, _) in CONTENDERS.items():
            start = time.process_time()
            run(model, batches)
            times[name].append(time.process_time() - start)
    base = times["plain eval forward"]
    rows = []
    for name, (_, wanted) in CONTENDERS.items():
        ratios = [own / plain for own, plain in zip(times[name], base, strict=True)]
        milliseconds = statistics.median(times[name]) / BATCHES * 1000
        rows.append((name, f"{milliseconds:.0f} ms", f"{statistics.median(ratios):.3f}", wanted))
    show("measuring, a batch of 32 at 64 x 64", ("", "CPU time", "ratio", "wanted"), rows)


if __name__ == "__main__":
    main()
