"""What the tests of the recorder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bncheck.recording.recorder import LOGGER
from tests.recording.said import Said


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the recorder warns of."""
    said = Said()
    LOGGER.addHandler(said)
    yield said.lines
    LOGGER.removeHandler(said)
