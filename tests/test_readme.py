"""The console blocks of the README and of docs/ are what the commands print.

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


PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
#: Every command with what it should print, once: the README shows some of those in docs/.
BLOCKS = {
    match["command"]: (page.name, match["output"])
    for page in PAGES
    for match in _BLOCK.finditer(page.read_text())
}


@pytest.mark.parametrize("command", BLOCKS, ids=lambda command: command[:60])
def test_the_page_shows_what_the_command_prints(command: str) -> None:
    assert run(command) == BLOCKS[command][1]


def test_a_command_that_two_pages_show_prints_the_same_in_both() -> None:
    for page in PAGES:
        for match in _BLOCK.finditer(page.read_text()):
            assert BLOCKS[match["command"]][1] == match["output"], page


def test_the_readme_has_its_tour() -> None:
    assert len(list(_BLOCK.finditer(README.read_text()))) >= 5
    assert len(README.read_text().splitlines()) < 200


def test_the_page_s_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = ROOT / "docs" / "python.md"
    (code,) = _PYTHON.findall(page.read_text())
    exec(compile(code, str(page), "exec"), {})


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text()
        page.write_text(
            _BLOCK.sub(lambda m: f"```console\n$ {m['command']}\n{run(m['command'])}```\n", text)
        )
