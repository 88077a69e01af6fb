"""Ctrl-C and SIGTERM become exceptions, which are cleaned up after."""

from __future__ import annotations

import signal
import sys
from typing import Final

from bncheck.core.errors import TerminatedError

#: Libraries whose C++ calls Python while they are imported, and aborts where that raises.
_FRAGILE: Final = ("torch", "onnxruntime")
#: Seconds until an interrupt that came within such an import is tried again.
_AGAIN: Final = 0.05


def prepare() -> None:
    """Install the handlers; a SIGINT that is ignored (nohup) stays ignored."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def give_back() -> None:
    """Let a second signal end the process at once: there is nothing left to clean up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _stop(number: int, _frame: object) -> None:
    if _being_imported() and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda *_: _stop(number, None))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        return
    raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt


def _being_imported() -> bool:
    specs = (getattr(sys.modules.get(name), "__spec__", None) for name in _FRAGILE)
    return any(getattr(spec, "_initializing", False) for spec in specs)
