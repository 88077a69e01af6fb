"""The command line: `main` runs a command and turns whatever happens into an exit code."""

from __future__ import annotations

import os
import sys

from bncheck.cli import console
from bncheck.errors import BncheckError, ExitCode


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; nothing but SystemExit's kin escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name may hold what the terminal cannot encode
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except BncheckError as error:
        console.error(str(error))
        return ExitCode.ERROR
    except Exception as error:
        return _crash(error)


def _dispatch(arguments: list[str]) -> int:
    import typer

    from bncheck.cli.app import build_app

    try:
        app = build_app(arguments[0] if arguments else "")
        result = app(arguments, prog_name="bncheck", standalone_mode=False)
        return int(result or 0)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # typer carries its own copy of click and exports none of click's exceptions but
        # BadParameter; all of them, and nothing else, can format a message for the user.
        if not hasattr(error, "format_message"):
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "bncheck")
        message = " ".join(str(error.format_message()).split()).rstrip(".")
        raise BncheckError(message, f"see `{command} --help`") from None


def _crash(error: Exception) -> int:
    if os.environ.get("BNCHECK_DEBUG"):
        import traceback

        traceback.print_exc()
    where = "" if os.environ.get("BNCHECK_DEBUG") else "; BNCHECK_DEBUG=1 shows where"
    console.error(f"this is a bug in bncheck ({type(error).__name__}: {error}){where}")
    return ExitCode.ERROR
