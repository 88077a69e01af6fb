"""Files in which a format's own loader finds other numbers than a reader that skips something.

Each of them is refused (tests/reading/test_hostile.py runs them); here it is shown that they are
lies: the loader takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile import CASES, distributed_liars, exported_liars, torchscript_liars

#: The beginnings of the cases' names, and what loads such a file.
LOADERS: dict[str, Callable[[Path], object]] = {
    "distributed-lie-": distributed_liars.load,
    "exported-lie-": exported_liars.load,
    "torchscript-lie-": torchscript_liars.load,
}
LIES = [(name, load) for start, load in LOADERS.items() for name in CASES if name.startswith(start)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "load"), LIES, ids=[name for name, _ in LIES])
def test_the_loader_takes_it(name: str, load: Callable[[Path], object], tmp_path: Path) -> None:
    load(CASES[name].build(tmp_path))
