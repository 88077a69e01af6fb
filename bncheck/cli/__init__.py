"""The command line: `main` runs a command and turns whatever happens into an exit code."""

from __future__ import annotations

import gc
import os
import sys
from itertools import pairwise
from typing import Final

from bncheck._version import __version__
from bncheck.cli import console, interrupts, streams
from bncheck.core import timing
from bncheck.core.errors import REPORT_IT, BncheckError, ExitCode, TerminatedError

#: What a command makes lives as long as the command: looking through it for garbage as often as
#: Python does takes a tenth of the time that a file of 10,000 layers takes.
_GARBAGE: Final = (150_000, 20, 20)

#: So much of an exception's own text is shown: it may quote a file.
_SHOWN: Final = 300


def main() -> None:
    """The console script."""
    streams.prepare()
    timing.begin()
    gc.set_threshold(*_GARBAGE)
    interrupts.prepare()
    code = run(sys.argv[1:])
    for line in timing.lines():
        console.line(line)
    interrupts.give_back()
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        console.line(ExitCode(code).name.lower())
    gc.freeze()  # looking for garbage at the exit is a fifth of `inspect`; core/importable.py
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; nothing is raised.

    Whatever fails is 2 and one line, never 1, which says that a checkpoint has findings.
    """
    try:
        code = _dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except TerminatedError:
        return ExitCode.TERMINATED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BncheckError as error:
        console.error(str(error))
    except ImportError as error:
        _not_imported(error)
    except MemoryError:
        console.error("ran out of memory; close other programs, or select one part with --key")
    except SystemExit as error:
        if error.code in (None, 0) and _completes(arguments):
            return ExitCode.OK
        console.error(f"sys.exit({_text(error)}) was called; raise an exception instead")
    except BaseException as error:
        _crash(error)
    return ExitCode.ERROR


def _not_imported(error: ImportError) -> None:
    """A library of an extra is not there; whatever else cannot be imported is a bug."""
    from bncheck.core.extras import explained

    if (known := explained(error)) is None:
        _crash(error)
    else:
        console.error(str(known))


def _completes(arguments: list[str]) -> bool:
    """Whether typer was asked for shell completion, which it answers and exits."""
    options = ("--show-completion", "--install-completion")
    return "_BNCHECK_COMPLETE" in os.environ or any(a.startswith(options) for a in arguments[:1])


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse an empty word, such as an unset variable in quotes: as a path it is this folder."""
    for before, word in pairwise(["bncheck", *arguments]):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            what = option if word else f"the word after {before}"
            raise BncheckError(f"{what} is empty", "give a name; a variable may be unset")


def _refuse_ambiguous(arguments: list[str]) -> None:
    """Refuse an option that is also the name of a file here.

    A shell expands `*.pt` in a stranger's folder to whatever the files there are called, and that
    may be `--model=evil.py:x.pt`. Behind `--` there are names alone.
    """
    names = arguments.index("--") if "--" in arguments else len(arguments)
    if names < len(arguments) and all(word.startswith("-") for word in arguments[:names]):
        raise BncheckError("-- stands before the command", "put it before the file names")
    for word in arguments[:names]:
        if word.startswith("-") and os.path.lexists(word):
            hint = "put ./ before the file name, or -- before all file names"
            raise BncheckError("is both an option and a file in this folder", hint, word)


def _dispatch(arguments: list[str]) -> int:
    if arguments == ["--version"]:  # without typer, which takes twice as long to import
        sys.stdout.write(f"bncheck {__version__}\n")
        return ExitCode.OK
    from bncheck.cli.app import EndOfFileError, build_group

    _refuse_empty(arguments)
    _refuse_ambiguous(arguments)
    try:
        group = build_group(arguments[0] if arguments else "")
        result = group.main(arguments, prog_name="bncheck", standalone_mode=False)
        return int(result or 0)
    except EndOfFileError as error:
        raise error.__cause__ or error from None
    except Exception as error:
        # typer carries its own copy of click and exports none of click's exceptions but
        # BadParameter; all of them, and nothing else, can format a message for the user.
        if not hasattr(error, "format_message"):
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "bncheck")
        message = " ".join(str(error.format_message()).split()).rstrip(".")
        raise BncheckError(message, f"see `{command} --help`") from None


def _crash(error: BaseException) -> None:
    """One line that names the bug and what to do about it; with BNCHECK_DEBUG=1 the traceback."""
    if debugging := bool(os.environ.get("BNCHECK_DEBUG")):
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            console.line(line)
    text = _text(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    console.error(
        f"this is a bug in bncheck ({what}); {REPORT_IT} with the output of "
        "`bncheck --version --verbose`"
        + ("" if debugging else " and the traceback that BNCHECK_DEBUG=1 prints")
    )


def _text(error: BaseException) -> str:
    """What an exception says, on one line, whatever its own code does."""
    try:
        return " ".join(str(error)[:_SHOWN].split())
    except Exception:
        return ""
