"""stdout and stderr as a command line needs them, whatever they are connected to."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import Final, TextIO

from bncheck.core.errors import BncheckError

#: What reports are drawn with, as letters of the same width, where a terminal has only those.
_DRAWN: Final = dict(zip("▁▂▃▄▅▆▇█·…≥", "_.-:=+*#.~>", strict=True))


class _Descriptor(io.FileIO):
    """Writes to a descriptor; what can no longer be delivered is dropped.

    A reader that has gone (`| head`) is not a failure, and the exit code still tells the verdict. A
    full disk is one, on stdout; on stderr it cannot be reported.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._broken = False

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if self._broken:
            return size
        try:
            return super().write(data) or 0  # type: ignore[arg-type]
        except OSError as error:
            self._broken = True  # Python flushes once more at its end
            if isinstance(error, BrokenPipeError) or self.fileno() != 1:
                return size
            reason = error.strerror or str(error)
            raise BncheckError(
                f"cannot be written to ({reason})", "redirect it elsewhere", "stdout"
            ) from None


_PLAIN: Final = "bncheck.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks: drawings as letters, and of names the escapes."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    escapes = (_DRAWN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(escapes), error.end


codecs.register_error(_PLAIN, _plain)


def prepare() -> None:
    """Put such streams in the place of sys.stdout and sys.stderr.

    Closed descriptors become /dev/null: the next file that is opened would take their number, and
    whatever prints would write into it.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)


def _stream(descriptor: int, old: TextIO | None) -> TextIO:
    raw = _Descriptor(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=(old.encoding if old is not None else None) or "utf-8",
        errors=_PLAIN,  # a name may hold what the terminal cannot encode
        line_buffering=descriptor == 2 or raw.isatty(),
    )
