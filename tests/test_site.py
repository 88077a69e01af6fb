"""The documentation builds without a warning, with every command, option and rule in it."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bncheck.cli.app import COMMANDS
from bncheck.rules.registry import RULES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once: of workers that ask for it, the first builds and the others wait."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    site = folder / "site"
    with (folder / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not site.exists():
            _build(folder / "site.part")
            (folder / "site.part").rename(site)
    return site


def _build(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_page_with_an_anchor(site: Path) -> None:
    for rule in RULES:
        page = (site / "rules" / rule.code / "index.html").read_text()
        assert f'id="{rule.code}"' in page
        assert rule.name in page


def test_every_command_has_its_options(site: Path) -> None:
    page = (site / "commands" / "index.html").read_text()
    for command in COMMANDS:
        assert f"bncheck {command}" in page
    assert "--train-batch-size N" in page
    assert "error|warning|never" in page.replace("&#124;", "|")


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in ("index.html", "commands/index.html", "rules/index.html"):
        text = (site / page).read_text()
        assert not re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+\.(?:js|css)', text
        )


def test_the_public_functions_are_in_the_reference(site: Path) -> None:
    page = (site / "python" / "index.html").read_text()
    for name in ("inspect", "drift", "landscape", "fold", "export", "recalibrate", "BncheckError"):
        assert f'id="bncheck.{name}"' in page
