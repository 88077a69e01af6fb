"""Where a user's code is imported from."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def is_path(target: str) -> bool:
    """Whether a target is a file and not a dotted module."""
    return target.endswith(".py") or os.sep in target


@contextlib.contextmanager
def importable(target: str) -> Iterator[None]:
    """The folders that a model's code may import from, first on sys.path for the time being.

    What the code itself adds stays, and these go behind everything else: a function that is called
    later, such as forward, may import from them, and a torch.py in them is nobody's torch.
    """
    atexit.register(gc.unfreeze)  # what the code leaves is given back: its files may need a flush
    ours = [path for path in dict.fromkeys(folders_of(target)) if path not in sys.path]
    writes = sys.dont_write_bytecode
    sys.path[:0] = ours
    sys.dont_write_bytecode = True  # who looks at a folder leaves no __pycache__ in it
    try:
        yield
    finally:
        for path in ours:
            if path in sys.path:
                sys.path.remove(path)
        sys.path += [path for path in ours if path not in sys.path]
        sys.dont_write_bytecode = writes


def folders_of(target: str) -> Iterator[str]:
    """The file's folder, the one that holds its package, the working directory, and its src."""
    here = os.getcwd()
    if is_path(target):
        folder = Path(target).resolve().parent
        yield str(folder)
        yield str(root_of(folder))
    yield here
    if os.path.isdir(source := os.path.join(here, "src")):
        yield source


def root_of(folder: Path) -> Path:
    """The folder that holds the outermost package around this one; itself where it is none."""
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        folder = folder.parent
    return folder


@contextlib.contextmanager
def working_directory_importable() -> Iterator[None]:
    """What unpickling a module needs: its class is imported by name."""
    with importable(""):
        yield
