"""How large the cases are that go to the limits: whole, or a tenth as large.

What hits a limit costs what the limit allows, seconds of it. The suite divides both, the limits by
`tests.batch.Batch` and the counts of these cases here: the same lines run, a tenth as often.
`python -m tests.hostile` divides neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

TENTH = 10
_divisor = 1


def many(count: int) -> int:
    """So many, or as many as go with the limits."""
    return count // _divisor


@contextmanager
def a_tenth() -> Iterator[None]:
    """What is built within is a tenth as large."""
    global _divisor
    _divisor = TENTH
    try:
        yield
    finally:
        _divisor = 1
