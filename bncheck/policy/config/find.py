"""Find the pyproject.toml that governs. Where there is none, this is all that is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from bncheck.policy.config.text import text_of

if TYPE_CHECKING:
    from bncheck.policy.config.load import Configuration

FILE: Final = "pyproject.toml"


def load(explicit: Path | None, isolated: bool) -> Configuration | None:
    """The configuration that governs the working directory, if any. Raises BncheckError."""
    if explicit is not None:
        return _read(explicit, required=True)
    if isolated:
        return None
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / FILE
        # Cheaper than to parse the pyproject.toml of every project in which bncheck is run.
        if file.is_file() and "bncheck" in text_of(file):
            found = _read(Path(FILE) if folder == here else file, required=False)
            if found is not None:
                return found
    return None


def _read(file: Path, required: bool) -> Configuration | None:
    from bncheck.policy.config.load import read

    return read(file, required)
