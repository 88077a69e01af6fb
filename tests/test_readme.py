"""The console blocks of the README and of docs/ are what the commands print.

`python -m tests.test_readme` writes them anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bncheck.cli import run as main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(r"```console\n\$ (?P<command>.+)\n(?P<output>(?:.*\n)*?)```\n")
_PYTHON = re.compile(r"```python\n((?:.*\n)*?)```\n")


def run(command: str) -> str:
    """What a command line prints on stdout. bncheck, which is its first word, runs in this process,
    which has torch; a shell expands its arguments and does the rest of the line.
    """
    arguments, rest = _LINE.fullmatch(command).groups()  # type: ignore[union-attr]
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(ROOT)
        patch.setattr(sys, "path", list(sys.path))
        for name in ("FORCE_COLOR", "COLUMNS"):
            patch.delenv(name, raising=False)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        words = _shell(f"printf '%s\\0' {arguments}").split("\0")[:-1]
        code = main(words)
        out.seek(0)
        return _shell(f"(cat; exit {code}) {rest}", out.read())


_LINE = re.compile(r"bncheck ([^|;&]*)(.*)")


def _shell(line: str, given: str = "") -> str:
    return subprocess.run(
        line, shell=True, input=given, stdout=subprocess.PIPE, text=True, check=False
    ).stdout


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
