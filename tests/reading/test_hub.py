"""hf://, as huggingface_hub reaches a hub: HF_ENDPOINT names one of our own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.planted import SAMPLES
from tests.reading.hub import hub


def test_a_file_of_a_repository_is_read_in_parts_and_another_repository_is_a_line(
    tmp_path: Path,
) -> None:
    shutil.copy(SAMPLES / "one-layer-reset.pt", tmp_path / "net.pt")
    asked: list[tuple[str, str]] = []
    words = ["hf://org/net@v1/net.pt", "hf://org/other/net.pt"]
    with hub(tmp_path, asked) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-m", "bncheck", "inspect", *words, "--json"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    said = json.loads(done.stdout)
    assert [f["rule"] for report in said["reports"] for f in report["findings"]] == ["BN101"]
    assert "hf://org/other/net.pt: does not exist there" in done.stderr
    assert "Traceback" not in done.stderr
    parts = [parts for place, parts in asked if place == "/org/net/resolve/v1/net.pt"]
    assert parts
    assert all(parts)
