"""A disk that loses a bit and says nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

#: Bytes in one write that are surely numbers.
_NUMBERS = 64


def faulty(data: Any) -> bytearray:
    """Numbers with another bit in the first one; what frames them as it is."""
    raw = bytearray(data)
    if len(raw) >= _NUMBERS and not raw.startswith((b"PK", b"{")):
        raw[3] ^= 1
    return raw


class _Faulty(io.FileIO):
    def write(self, data: Any) -> int:
        return super().write(faulty(data))


def opening(path: str | Path, mode: str = "r") -> io.FileIO:
    """In the place of `open`."""
    return _Faulty(path, mode.replace("b", ""))
