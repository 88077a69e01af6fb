"""All layouts at once: built here, or, for a machine without torch, elsewhere and before.

python -m tests.zoo FOLDER
BNCHECK_ZOO=FOLDER pytest tests/reading/test_zoo.py
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, Final

import ml_dtypes  # noqa: F401 - names its dtypes to NumPy
import numpy as np

from tests.zoo.layout import Array, Layout

FILE: Final = "layouts.pickle"


class _Pickler(pickle.Pickler):
    """NumPy's own pickles of arrays are not for older releases of NumPy."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return _array, (value.shape, value.dtype.name, value.tobytes())
        return NotImplemented


def _array(shape: tuple[int, ...], dtype: str, data: bytes) -> Array:
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape)


def build(folder: Path) -> dict[str, Layout]:
    """Build each in a folder of its own."""
    from tests.zoo.registry import BUILDERS

    made = {}
    for name, builder in BUILDERS.items():
        (folder / name).mkdir(parents=True)
        made[name] = builder(folder / name)
    return made


def keep(folder: Path) -> None:
    """Build them for another process to read; it must find them at the same place."""
    layouts = build(folder)
    with (folder / FILE).open("wb") as out:
        _Pickler(out).dump(layouts)


def kept() -> dict[str, Layout] | None:
    """What `keep` has left in $BNCHECK_ZOO; None where they are to be built."""
    folder = os.environ.get("BNCHECK_ZOO")
    layouts: dict[str, Layout] | None = None
    if folder:
        layouts = pickle.loads((Path(folder) / FILE).read_bytes())
    return layouts


def names() -> list[str]:
    """Their ids."""
    layouts = kept()
    if layouts is not None:
        return list(layouts)
    from tests.zoo.registry import BUILDERS

    return list(BUILDERS)
