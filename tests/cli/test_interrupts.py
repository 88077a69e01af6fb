"""Ctrl-C within the import of a library that does not stand it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Strikes at the first import within torch's own, and says how far that got.
STRUCK = """
import atexit, os, signal, sys

class Striking:
    def find_spec(self, name, path=None, target=None):
        if name == "torch._C":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{number})

sys.meta_path.insert(0, Striking())
atexit.register(lambda: print("whole" if hasattr(sys.modules.get("torch"), "compile") else "half"))
sys.argv = "bncheck inspect sample_models/stale.pt --model sample_models/nets.py:DigitNet".split()
from bncheck import cli
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_import_that_aborts_on_exceptions_is_waited_for(number: str, code: int) -> None:
    source = STRUCK.format(number=number)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code
    assert done.stdout == "whole\n"
