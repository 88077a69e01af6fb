"""What holds after a run on a hostile file, whatever it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import unicodedata
from pathlib import Path

from bncheck.reporting.visible import visible
from tests.batch import SCRIPT, Door, Outcome
from tests.hostile.case import Case
from tests.zoo.layout import ROLES
from tests.zoo.states import statistics

#: No file may make bncheck take more; most take 0.2 s and 40 MB.
MOST_SECONDS = 10.0
MOST_BYTES = 300 << 20

#: What `--format github` may say to a runner: remarks on a file, nothing that sets or stops.
ANNOTATION = re.compile(r"::(error|warning|notice) ")


def run_case(
    case: Case, folder: Path, door: Door, *options: str, seconds: float = MOST_SECONDS,
    most_bytes: int = MOST_BYTES,
) -> Outcome:  # fmt: skip
    """Build a case in an empty folder, inspect it through a door, check the run."""
    inside, marker = folder / "case", folder / "marker"
    inside.mkdir()
    path = case.build(inside)
    before = fingerprint(inside)
    command = [*(case.door or SCRIPT), "inspect", *options, *case.options, str(path)]
    done = door.run(command, inside, marker, seconds)
    assert not marker.exists(), "a payload was executed"
    assert fingerprint(inside) == before, "the folder has changed"
    check(done, case.codes, commands="github" in case.options)
    torch_is_needed = "--model" in case.options  # and takes more than the limit by itself
    assert done.seconds < seconds, f"{done.seconds:.1f} s"
    assert torch_is_needed or done.peak_bytes < most_bytes, f"{done.peak_bytes >> 20} MiB"
    if done.code == 2 and "--model" not in case.options:
        named = (str(path), *(word for word in case.options if word[0] != "-"))
        said = [visible(word[:4000], None) in done.stderr for word in named]  # longer ones are cut
        assert any(said), "no file is named"
    return done


def check(done: Outcome, codes: frozenset[int], *, commands: bool = False) -> None:
    """The right code, and streams that hold what they should and nothing that steers.

    `commands`: standard output is made of a runner's commands, which are nothing else elsewhere.
    """
    assert done.code in codes, (done.code, done.seconds, done.stderr[-300:])
    assert "Traceback" not in done.stderr
    assert "bug in bncheck" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    for text in (done.stdout, done.stderr):
        assert not hidden(text)
        assert "##[" not in text
        assert "##vso[" not in text
        steering = [line for line in text.splitlines() if line.lstrip().startswith("::")]
        if commands and text is done.stdout:
            steering = [line for line in steering if not ANNOTATION.match(line)]
        assert not steering, steering[:3]
    if done.code == 2:
        assert [line[:16] for line in lines if "error" in line] == ["bncheck: error: "]
        assert done.stdout == ""
    assert all(line.startswith("bncheck: ") or line == "{" for line in lines), lines
    assert all(len(line) < 6000 for line in [*lines, *done.stdout.splitlines()])


def check_report(file: Path, case: Case, done: Outcome) -> None:
    """It is written where something was read, is JSON, and holds the numbers of the weights."""
    assert file.exists() == (done.code != 2)
    if done.code == 2:
        return
    report = json.loads(file.read_text(), parse_constant=_refuse_constant)
    if case.weights:
        (layer,) = [layer for layer in report["layers"] if layer["name"] == "bn"]
        for role in ROLES:
            numbers = statistics()[f"bn.{role}"]
            assert layer[role] == {"min": numbers.min().item(), "max": numbers.max().item()}


def _refuse_constant(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def hidden(text: str) -> set[str]:
    """The characters that steer a terminal, a CI runner or the reader's eye."""
    return {
        c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }


def fingerprint(folder: Path) -> str:
    """All that is in a folder: names, kinds, link targets and contents."""
    digest = hashlib.sha256()
    for place, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            digest.update(os.fsencode(path) + mode.to_bytes(4, "little"))
            if stat.S_ISLNK(mode):
                digest.update(os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(mode):
                digest.update(Path(path).read_bytes())
    return digest.hexdigest()
