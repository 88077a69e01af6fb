"""What a snapshot of `drift` costs with data, beside load and forward: ratios within rounds."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path

from tests.benchmarks.table import show

ROUNDS = 9


def main() -> None:
    """CPU time of one snapshot with data, against a load and a forward."""
    import torch

    from bncheck.series.measuring import Meter
    from bncheck.subject.setup import Measuring
    from tests.benchmarks.measuring import BATCH, plain
    from tests.benchmarks.networks import resnet18

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


if __name__ == "__main__":
    main()
