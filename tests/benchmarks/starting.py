"""What it costs to start: the least CPU time of several runs of one command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.table import show

RUNS = 12
FILES = 200
SAMPLES = Path(__file__).parents[2] / "sample_models"
CONFIG = "[tool.bncheck.severity]\nBN110 = 'warning'\n"


def cost(folder: str, *arguments: str) -> tuple[float, float]:
    """CPU and wall seconds."""
    times = []
    for _ in range(RUNS):
        before, start = os.times(), time.perf_counter()
        words = [sys.executable, "-m", "bncheck", *arguments]
        subprocess.run(words, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        times.append((cpu, time.perf_counter() - start))
    return min(cpu for cpu, _ in times), min(wall for _, wall in times)


def main() -> None:
    """Print what each kind of start costs."""
    with tempfile.TemporaryDirectory() as folder:
        small = str(SAMPLES / "healthy.pt")
        many = [f"{place}.pt" for place in range(FILES)]
        for name in many:
            (Path(folder) / name).write_bytes(Path(small).read_bytes())
        lines = {
            "--version": ["--version"],
            "rule BN101": ["rule", "BN101"],
            "inspect a small file": ["inspect", "--isolated", small],
            f"inspect {FILES} small files": ["inspect", "--isolated", "--quiet", *many],
        }
        rows = [(name, *cost(folder, *words)) for name, words in lines.items()]
        (Path(folder) / "pyproject.toml").write_text(CONFIG)
        rows.append(("a small file with [tool.bncheck]", *cost(folder, "inspect", small)))
    shown = [(name, f"{cpu:.2f}", f"{wall:.2f}") for name, cpu, wall in rows]
    show(f"Starting: seconds, the least of {RUNS}", ("", "CPU", "wall"), shown)


if __name__ == "__main__":
    main()
