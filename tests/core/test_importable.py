"""Where the user's code is imported from, and what becomes of what it leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_NETS = """
class Log:
    def __init__(self):
        self.again, self.file = self, open("log.txt", "w")
        self.file.write("whole")

log = Log()
"""


def test_files_that_user_code_left_open_are_written_at_the_exit(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(_NETS)
    program = "import gc; from bncheck.core.usercode import resolve\n"
    program += "resolve('nets.py:log', '--model'); gc.freeze()  # as cli.main does at its end"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert (tmp_path / "log.txt").read_text() == "whole"
