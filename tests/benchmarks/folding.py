"""What it costs to fold a ResNet-50, beside torch.fx, in turns in one process and one thread."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from bncheck.folding.program.exporting import export_program
from bncheck.folding.program.in_place import functional
from bncheck.folding.program.rewrite import rewrite
from bncheck.folding.weights import solve
from bncheck.graph.program.read import read_program
from tests.benchmarks.table import show

RUNS = 7


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1, and the input."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        result: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return result


def resnet50() -> nn.Module:
    """53 BatchNorms and 25.6 million parameters."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            layers.append(Bottleneck(inputs, width, stride))
            inputs = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)]
    return nn.Sequential(*layers).eval()


def in_turns(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The median CPU seconds of each way, all run in turns."""
    costs: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for turn in range(RUNS + 1):
            for name, way in ways.items():
                begin = time.process_time()
                way()
                if turn:  # the first one warms up
                    costs[name].append(time.process_time() - begin)
    return {name: statistics.median(times) for name, times in costs.items()}


def times() -> None:
    """CPU time of planning and rewriting, beside torch.fx."""
    model = resnet50()
    program = functional(export_program(model, (torch.randn(2, 3, 64, 64),)))
    medians = in_turns(
        {
            "bncheck: read, plan, rewrite": lambda: rewrite(program, solve(read_program(program))),
            "bncheck: read, plan": lambda: solve(read_program(program)),
            "torch.fx fuse": lambda: fuse(model),
        }
    )
    base = next(iter(medians.values()))
    rows = [(name, f"{cpu:.3f}", f"{cpu / base:.2f}") for name, cpu in medians.items()]
    show("folding a ResNet-50 (the export apart)", ("", "CPU s", "ratio"), rows)


def peak(way: str) -> None:
    """In a process of its own: print the resident memory in MiB before, and its peak during."""
    model = resnet50()
    program = functional(export_program(model, (torch.randn(2, 3, 64, 64),)))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    if way == "bncheck":
        rewrite(program, solve(read_program(program)))
    else:
        fuse(model)
    print(before, _memory("VmHWM"))


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def memory() -> None:
    """The largest addition to a process that holds the model and its exported program."""
    if not Path("/proc/self/clear_refs").exists():
        print("memory: left out, this system does not tell it")
        return
    rows = []
    for way in ("bncheck", "torch.fx fuse"):
        code = f"from tests.benchmarks import folding; folding.peak({way!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        before, most = map(float, done.stdout.split())
        rows.append((way, f"{before:.0f}", f"+{most - before:.0f}"))
    show("memory while folding a ResNet-50", ("", "MiB before", "MiB more"), rows)


def main() -> None:
    """Print CPU time and memory."""
    torch.set_num_threads(1)
    times()
    memory()


if __name__ == "__main__":
    main()
