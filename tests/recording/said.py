"""What the recorder warns of, line by line."""

from __future__ import annotations

import logging


class Said(logging.Handler):
    """What the logger was told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
