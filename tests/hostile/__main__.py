"""`python -m tests.hostile [WORD...]`: every case (whose name holds a word) through the script."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.batch import Door
from tests.hostile import CASES
from tests.hostile.check import run_case


def main(words: list[str]) -> int:
    """Print what fails and the costliest; the number of failures is the exit code, 99 at most."""
    door, failures = Door(), 0
    costs: list[tuple[float, int, str]] = []
    names = [name for name in CASES if not words or any(word in name for word in words)]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = run_case(CASES[name], Path(folder), door, "--verbose")
                costs.append((done.seconds, done.peak_bytes >> 20, name))
            except AssertionError as error:
                failures += 1
                print(f"{name}: {error}", flush=True)
    door.close()
    for seconds, mib, name in sorted(costs)[-5:]:
        print(f"{seconds:6.2f} s {mib:5} MiB  {name}")
    print(f"largest: {max((mib, name) for _, mib, name in costs)}")
    print(f"{len(names)} cases, {failures} failed")
    return min(failures, 99)


sys.exit(main(sys.argv[1:]))
