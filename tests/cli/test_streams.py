"""What an encoding lacks is drawn with letters of the same width, or escaped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.networks import SAMPLES


def test_drawings_are_letters_and_names_escapes_where_the_terminal_has_ascii(
    tmp_path: Path,
) -> None:
    (tmp_path / "na\u00efve.pt").write_bytes((SAMPLES / "healthy.pt").read_bytes())
    words = ["inspect", "na\u00efve.pt", "--isolated", "--verbose"]
    done = subprocess.run(
        [sys.executable, "-m", "bncheck", *words], cwd=tmp_path, capture_output=True, check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
    )  # fmt: skip
    said = done.stdout.decode("ascii")
    assert "\\u25" not in said
    assert "\\xef" in said
    rows = [line for line in said.splitlines() if line.startswith("bn")]
    assert len(rows) == 4
    assert all("#" in row for row in rows)  # the largest number is a whole block
