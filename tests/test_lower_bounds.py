"""`make lower-bounds` runs apart from the suite: what it names must be there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lower_bounds import EXPECTED, NEEDS_TORCH, SAMPLES, TESTS
from tests.zoo import menagerie

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", TESTS)
def test_what_it_runs_is_there(name: str) -> None:
    assert (HERE / name).exists()


def test_what_it_runs_is_collected_without_torch(tmp_path: Path) -> None:
    (tmp_path / menagerie.FILE).write_bytes(pickle.dumps({}))
    program = "import sys; sys.modules['torch'] = None; import pytest; sys.exit(pytest.main())"
    command = [sys.executable, "-c", program, "--collect-only", "-qq", "-n", "0"]
    done = subprocess.run(
        [*command, *(str(HERE / name) for name in TESTS)],
        capture_output=True,
        env={**os.environ, "BNCHECK_ZOO": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout.decode()[-2000:]


@pytest.mark.parametrize("name", NEEDS_TORCH)
def test_what_it_leaves_out_is_there(name: str) -> None:
    file, _, function = name.partition("::")
    assert f"def {function}(" in (HERE / file).read_text()


def test_the_samples_that_it_inspects_are_there() -> None:
    missing = {name for name in EXPECTED if not (SAMPLES / name).exists()}
    assert missing == {"absent.pt"}
