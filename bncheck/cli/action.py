"""What action.yml runs: `python -I -m bncheck.cli.action`, with its inputs in the environment.

No shell sees a word of an input. Patterns are expanded here, the command is a list of words, and
every name in it stands behind `--`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bncheck.cli.streams import prepare
from bncheck.core.errors import BncheckError, ExitCode
from bncheck.reading.patterns import meant
from bncheck.reporting.github import Annotation
from bncheck.reporting.visible import visible_line

_ERROR: Final = re.compile(r"^bncheck: error: (.*)$", re.MULTILINE)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run bncheck once; reports, annotations and outputs go where the runner wants them."""
    folder = Path(tempfile.mkdtemp(prefix="bncheck.", dir=environment["RUNNER_TEMP"]))
    try:
        command = [environment["BNCHECK"], *arguments(environment, folder)]
        done = subprocess.run(command, stderr=subprocess.PIPE, check=False)  # noqa: S603
        code, said = done.returncode, done.stderr.decode("utf-8", "replace")
    except (BncheckError, OSError) as error:
        code, said = ExitCode.ERROR, f"bncheck: error: {visible_line(str(error))}\n"
    sys.stderr.write(said)
    summary = folder / "bncheck.md"
    if summary.exists():
        with open(environment["GITHUB_STEP_SUMMARY"], "ab") as file:
            file.write(summary.read_bytes())
    else:
        found = _ERROR.search(said)
        message = found[1] if found else f"ended by signal {-code}" if code < 0 else ""
        sys.stdout.write(f"{Annotation('error', 'bncheck could not be run', message)}\n")
    code = 128 - code if code < 0 else code
    with open(environment["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
        file.write(f"exit-code={code}\njson={folder}/bncheck.json\nsarif={folder}/bncheck.sarif\n")
    return code


def arguments(environment: Mapping[str, str], folder: Path) -> list[str]:
    """The words after `bncheck`. Raises BncheckError for inputs that make none.

    The Action's own options stand between the user's and the `--`: one of the user's that lacks its
    value takes one of these, never the `--`.
    """
    names = names_in(environment["BNCHECK_CHECKPOINTS"])
    try:
        options = shlex.split(environment["BNCHECK_ARGS"])
    except ValueError as error:
        raise BncheckError(
            f"is not a list of options ({error})", "fix the quoting", "args"
        ) from None
    own = ["--format", "github"]
    for format_, name in (("markdown", "md"), ("sarif", "sarif"), ("json", "json")):
        own += ["--report", f"{format_}:{folder}/bncheck.{name}"]
    return ["inspect" if names else "gate", *options, *own, "--", *names]


def names_in(text: str) -> list[str]:
    """The files that a list of names and patterns may mean, separated by blanks or lines.

    A line or a word that is a file's name means that file, and is a pattern still: a pull request
    may bring a file called `*.pt`. What means no file stays as it is, and bncheck says so.
    """
    found: list[str] = []
    for line in text.split("\n"):
        whole = [name for name in (line, line.strip()) if name.strip() and os.path.lexists(name)]
        for word in line.split():
            found += meant(word) or ([] if whole else [word])
        found += whole
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    prepare()
    sys.exit(main())
