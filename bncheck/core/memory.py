"""Memory that was freed, and stays with the process."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Return freed memory to the operating system, where the C library can (glibc).

    It keeps what was freed between blocks that live on. Behind a large piece of work that may be a
    sixth of the process, which the next one cannot use if it asks for larger blocks.
    https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems, other libraries
        ctypes.CDLL(None).malloc_trim(0)
