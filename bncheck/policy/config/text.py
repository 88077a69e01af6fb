"""A configuration file's text."""

from __future__ import annotations

from pathlib import Path

from bncheck.reading.text_file import read_text


def text_of(file: Path) -> str:
    """The text of a pyproject.toml. Raises BncheckError."""
    return read_text(file, "use another with --config, or none with --isolated")
