"""Memory that was freed goes back to the system where the C library can give it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from bncheck.core.memory import give_back

BLOCK, NUMBER, KEPT = 100_000, 500, 50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back")
def test_what_lies_freed_between_blocks_that_live_goes_back() -> None:
    blocks = [bytes([1 + index % 255]) * BLOCK for index in range(NUMBER)]
    kept = blocks[::KEPT]
    del blocks
    before = _resident()
    give_back()
    assert before - _resident() > NUMBER * BLOCK / 2
    assert len(kept) == NUMBER / KEPT


def _resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
