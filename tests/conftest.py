"""What every test may rely on."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.warm import Warm

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Workers and what they start share the cores: more threads would wait for each other, spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Why a test may be skipped where CI is "true". A missing browser or library would hide what it
#: was to show, so every other skip fails there.
ADMITTED_SKIPS = ("the real files are not here", "this user is in one group")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting imports lives to the end, so the garbage collector need not walk it.

    Walking it again and again while it grows is a third of the time that collecting takes. After
    that, with every 5,000th object instead of every 700th it takes 4 % of the time in place of 10.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(5000, 20, 20)
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip is a failure, unless its reason is admitted."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not reason.endswith(ADMITTED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A bncheck that is started already, for what is not about how it starts."""
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        started = Warm(Path(folder))
        yield started
        started.close()
