"""What it costs to inspect a large checkpoint, beside torch.load, each in a process of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.table import show

RUNS = 3
FILES = ("zip.pt", "legacy.pt", "model.safetensors")
BNCHECK = "from bncheck.cli import main; main()"
TORCH = "import sys, torch; torch.load(sys.argv[1], map_location='cpu', weights_only=True{})"


@dataclass(frozen=True)
class Cost:
    """CPU seconds, peak memory (MiB) and what was read of files (MiB) of one process."""

    cpu: float
    rss: float
    read: float


def measure(*arguments: str) -> Cost:
    """One process, one thread, as the operating system accounts for it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    account = Path(f"/proc/{process.pid}/io").read_text("utf-8")  # mapped files are not in it
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 1), arguments
    read = int(account.partition("rchar:")[2].split()[0]) / 2**20
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, read)


def build(folder: str, gib: float) -> None:
    """One network of convolutions and BatchNorms in three containers."""
    import safetensors.torch
    import torch

    layers = max(1, int(gib * 2**30 / (512 * 1024 * 9 * 4)))
    norms = {"weight": 1.0, "bias": 0.1, "running_mean": 0.2, "running_var": 0.9}
    state: dict[str, torch.Tensor] = {}
    for index in range(layers):
        state[f"conv{index}.weight"] = torch.full((1024, 512, 3, 3), 0.01)
        state |= {f"bn{index}.{name}": torch.full((1024,), v) for name, v in norms.items()}
        state[f"bn{index}.num_batches_tracked"] = torch.tensor(10_000)
    zipped, legacy, tensors = (str(Path(folder) / name) for name in FILES)
    torch.save(state, zipped)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tensors)


def main(gib: float = 1.0) -> None:
    """Print CPU time and memory, median of interleaved runs, and the ratio to bncheck."""
    with tempfile.TemporaryDirectory() as folder:
        # Built in a process of its own: a child's peak memory begins at its parent's.
        build = f"from tests.benchmarks.reading import build; build({folder!r}, {gib})"
        subprocess.run([sys.executable, "-c", build], check=True)
        files = {name: Path(folder) / name for name in FILES}
        mmap = ", mmap=True"
        ways: dict[str, Callable[[], Cost]] = {
            "bncheck --help": partial(measure, BNCHECK, "--help"),
            "python -c pass": partial(measure, "pass"),
        }
        for name, path in files.items():
            inspect = partial(measure, BNCHECK, "inspect", str(path))
            ways[f"bncheck inspect {name}"] = inspect
            ways[f"bncheck inspect {name} --ignore BN117"] = partial(inspect, "--ignore", "BN117")
        for name, option in (("zip.pt", mmap), ("zip.pt", ""), ("legacy.pt", "")):
            load = TORCH.format(option)
            ways[f"torch.load {name}{option}"] = partial(measure, load, str(files[name]))
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(RUNS):
            for name, way in ways.items():
                costs[name].append(way())
    base = statistics.median(cost.cpu for cost in costs["bncheck inspect zip.pt"])
    rows = []
    for name, runs in costs.items():
        cpu = statistics.median(cost.cpu for cost in runs)
        rss = statistics.median(cost.rss for cost in runs)
        read = statistics.median(cost.read for cost in runs)
        rows.append((name, f"{cpu:.2f}", f"{cpu / base:.2f}", f"{rss:.0f}", f"{read:.0f}"))
    heads = ("", "CPU s", "ratio", "peak MiB", "read MiB")
    show(f"reading a checkpoint of {gib:g} GiB", heads, rows)
