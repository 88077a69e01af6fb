"""What recording costs: a training step with and without, the size of a record, and `drift` on it.

CPU time on one thread, means over pairs of steps that follow each other.
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.process import bncheck
from tests.benchmarks.table import show

if TYPE_CHECKING:
    import torch

#: Channels of the BatchNorms of a ResNet-50.
RESNET50 = (64, *([64, 64, 256] * 3 + [256]), *([128, 128, 512] * 4 + [512]),
            *([256, 256, 1024] * 6 + [1024]), *([512, 512, 2048] * 3 + [2048]))  # fmt: skip
SNAPSHOTS = 1000


def mlp() -> Any:
    from torch import nn

    layers: list[Any] = []
    for width in (512, 512, 512):
        layers += [nn.LazyLinear(width), nn.LazyBatchNorm1d(), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.LazyLinear(10))


def stepper(model: Any, x: torch.Tensor, y: torch.Tensor) -> Callable[[], torch.Tensor]:
    import torch

    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step


def steps(model: Any, shape: tuple[int, ...], pairs: int) -> tuple[float, float, float]:
    """Milliseconds of a plain step; what the recorder adds to one that it does not record, and
    what to one of which it records every one, hooks included."""
    import torch

    from bncheck.recording import Recorder

    x, y = torch.randn(*shape), torch.randint(10, shape[:1])
    model(x)
    plain, recorded = stepper(copy.deepcopy(model), x, y), stepper(model, x, y)
    base, idle, busy = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(model, f"{folder}/seldom", every=1_000_000)
        recorder.step(loss=recorded())
        for _ in range(pairs):
            loss = recorded()
            idle.append(cpu(partial(recorder.step, loss=loss)))
        recorder.close()
        recorder = Recorder(model, f"{folder}/often", every=1)
        for number in range(pairs):
            first = cpu(plain) if number % 2 else None  # in turn, for what the cache holds
            start = time.process_time()
            recorder.step(loss=recorded())
            end = time.process_time()
            base.append(cpu(plain) if first is None else first)
            busy.append(end - start - base[-1])
        recorder.close()
    # The rules run at every tenth recorded step: a mean, and not a median.
    typical, always = statistics.median(idle), statistics.mean(busy[5:])
    return 1e3 * statistics.mean(base[5:]), 1e3 * typical, 1e3 * always


def cpu(act: Callable[[], object]) -> float:
    """CPU time."""
    start = time.process_time()
    act()
    return time.process_time() - start


def training() -> None:
    """A step of a ResNet-18 at 32 x 32 and of an MLP."""
    import torch

    from tests.benchmarks.networks import resnet18

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[tuple[str, ...]] = []
    for name, model, shape, pairs, wanted in (
        ("ResNet-18, 32 x 32, batch 32", resnet18(), (32, 3, 32, 32), 35, "<= 1 %, 15 %"),
        ("MLP of 3 x 512, batch 128", mlp(), (128, 3, 16, 16), 60, "<= 3 %, 15 %"),
    ):
        base, idle, busy = steps(model.train(), shape, pairs)
        often, seldom = busy / base, (busy + 99 * idle) / 100 / base
        rows.append(
            (name, f"{base:.1f} ms", f"{100 * seldom:.2f} %", f"{100 * often:.1f} %", wanted)
        )
    head = ("", "a step", "every=100 adds", "every=1 adds", "wanted")
    show("recording: a step of a training", head, rows)


def build(folder: str, number: int) -> None:
    """Snapshots of a ResNet-50's layers, as the recorder writes them."""
    import torch
    from torch import nn

    from bncheck.recording import Recorder

    torch.manual_seed(0)
    model = nn.ModuleDict(
        {f"layer{place}_block_bn": nn.BatchNorm2d(width) for place, width in enumerate(RESNET50)}
    )
    recorder = Recorder(model, folder, every=1, keep=None)
    with torch.no_grad():
        for _ in range(number):
            for module in model.values():
                module(torch.randn(2, int(module.num_features), 2, 2))  # type: ignore[arg-type]
            recorder.step()
    recorder.close()


def record() -> None:
    """The size of a long record, and what it takes to read it."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for number in (SNAPSHOTS // 5, SNAPSHOTS):
            path = str(Path(folder) / f"{number}")
            code = f"from tests.benchmarks.recording import build; build({path!r}, {number})"
            subprocess.run([sys.executable, "-c", code], check=True)
            size = sum(file.stat().st_size for file in Path(path).rglob("*"))
            ours = bncheck("drift", path)
            rows.append((f"{number} snapshots", f"{size / 1e9:.3f} GB", f"{ours.cpu:.2f} s",
                         f"{ours.peak:.0f} MiB"))  # fmt: skip
        rows.append(("wanted", "<= 0.5 GB", "<= 5 s", "flat"))
        show("records of a ResNet-50", ("", "on disk", "drift", "memory"), rows)


def main() -> None:
    """Print both tables."""
    training()
    record()


if __name__ == "__main__":
    main()
