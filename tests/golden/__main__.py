"""Write the golden files anew: all, or those named."""

from __future__ import annotations

import os
import sys
import tempfile

from tests.golden.cases import CASES, FOLDER, prepare, printed

if __name__ == "__main__":
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        os.chdir(folder)
        for name in sys.argv[1:] or CASES:
            (FOLDER / f"{name}.txt").write_text(printed(CASES[name]), "utf-8")
