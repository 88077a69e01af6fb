"""A folder for what has to be a file while the command runs."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def temporary_folder() -> Path:
    """A folder of this process's own that is gone when it ends."""
    folder, owner = tempfile.mkdtemp(prefix="bncheck-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked process ends earlier
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)
