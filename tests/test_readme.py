"""The console blocks of README and docs are what the commands print.

`python -m tests.test_readme` writes them anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(r"```console\n\$ (?P<command>.+)\n(?P<output>(?:.*\n)*?)```\n")
_PYTHON = re.compile(r"```python\n((?:.*\n)*?)```\n")


def run(command: str) -> str:
    """What a command prints on stdout, run by a shell that finds this environment's scripts."""
    scripts = Path(sys.executable).parent
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
    environment["PATH"] = f"{scripts}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


PAGES = (README, ROOT / "docs" / "recording.md")
BLOCKS = [block for page in PAGES for block in _BLOCK.finditer(page.read_text())]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["command"][:60])
def test_the_readme_shows_what_the_command_prints(block: re.Match[str]) -> None:
    assert run(block["command"]) == block["output"]


def test_the_readme_has_its_tour() -> None:
    assert len(BLOCKS) >= 6


def test_the_readme_s_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = _PYTHON.findall(README.read_text())
    exec(compile(code, "README.md", "exec"), {})


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text()
        page.write_text(
            _BLOCK.sub(lambda m: f"```console\n$ {m['command']}\n{run(m['command'])}```\n", text)
        )
