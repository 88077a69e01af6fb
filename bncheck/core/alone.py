"""A call of the Python API leaves the caller's process as it was, and does not depend on it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

#: What autocast may be on for; it would turn float32 into half precision on the way.
_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def alone() -> Iterator[None]:
    """Random numbers go on afterwards as if it had not been; the caller's autocast is off."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        if (numpy_random := sys.modules.get("numpy.random")) is not None:
            stack.callback(numpy_random.set_state, numpy_random.get_state())
        if (torch := sys.modules.get("torch")) is not None:
            used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
            stack.enter_context(torch.random.fork_rng(devices=used))
            for device in _DEVICES:
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
        yield
