"""What `drift` costs: 500 snapshots from their buffers; and with data, beside load and forward.

The first part runs each command in a process of its own (whose peak memory begins at its parent's,
so there is no torch here); memory must not grow with the number of snapshots by more than their
statistics. The second takes ratios within rounds, as `benchmarks.measuring`.
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.reading import BNCHECK, measure
from tests.benchmarks.table import show

NUMBERS = (100, 500)
ROUNDS = 9
LOAD = "import sys, torch\nfor path in sys.argv[1:]: torch.load(path)"


def build(folder: str, number: int) -> None:
    """Snapshots of a ResNet-20 (1.1 MB, 19 BatchNorms), each with other numbers."""
    import torch

    from tests.resnet import ResNet

    torch.manual_seed(0)
    state = ResNet(20).state_dict()
    for step in range(number):
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand_like(tensor))
        torch.save({"state_dict": state, "step": step}, Path(folder) / f"step-{step}.pt")


def buffers() -> None:
    """CPU time and memory from the files alone."""
    with tempfile.TemporaryDirectory() as folder:
        code = f"from tests.benchmarks.drift import build; build({folder!r}, {max(NUMBERS)})"
        subprocess.run([sys.executable, "-c", code], check=True)
        rows = []
        for number in NUMBERS:
            files = [str(Path(folder) / f"step-{step}.pt") for step in range(number)]
            ours = measure(BNCHECK, "drift", *files)
            torchs = measure(LOAD, *files)
            wanted = "<= 3 s, 150 MiB" if number == max(NUMBERS) else ""
            rows.append(
                (f"bncheck drift, {number} snapshots", f"{ours.cpu:.2f} s", f"{ours.rss:.0f} MiB",
                 wanted)
            )  # fmt: skip
            rows.append(
                (f"torch.load of {number}", f"{torchs.cpu:.2f} s", f"{torchs.rss:.0f} MiB", "")
            )
        show("drift from buffers, 1.1 MB each", ("", "CPU time", "memory", "wanted"), rows)


def data() -> None:
    """CPU time of one snapshot with data, against a load and a forward."""
    import torch

    from bncheck.series.measuring import Meter
    from bncheck.subject.setup import Measuring
    from tests.benchmarks.measuring import BATCH, plain, resnet18

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batches = resnet18(), [torch.randn(BATCH, 3, 64, 64) for _ in range(4)]
    other = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot.pt"
        torch.save(model.state_dict(), path)
        meters = {
            "--layers norm": Meter(Measuring(model, batches), None, False),
            "--layers all": Meter(Measuring(model, batches), None, True),
        }
        ratios: dict[str, list[float]] = {name: [] for name in meters}
        for round_ in range(ROUNDS + 1):
            start = time.process_time()
            other.load_state_dict(torch.load(path))
            plain(other, batches)
            base = time.process_time() - start
            for name, meter in meters.items():
                start = time.process_time()
                meter.measure(path)
                if round_:  # the first warms up
                    ratios[name].append((time.process_time() - start) / base)
    rows = [
        (f"bncheck drift --data, {name}", f"{statistics.median(found):.3f}",
         "<= 1.15" if name == "--layers norm" else "")
        for name, found in ratios.items()
    ]  # fmt: skip
    show("drift with data, ratio to load and forward", ("", "ratio", "wanted"), rows)


def main() -> None:
    """Print both tables."""
    buffers()
    data()


if __name__ == "__main__":
    main()
