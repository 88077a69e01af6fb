"""Runs the trials and says what was said of each."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import torch

import bncheck
from tests.recording.trials.faulty import Fault, faulty
from tests.recording.trials.fresh import fresh_faulty, fresh_sound
from tests.recording.trials.healthy import healthy
from tests.recording.trials.held import set_aside
from tests.recording.trials.training import Trial


def drifted(folder: Path, trial: Trial) -> str:
    codes = {f.rule for f in bncheck.drift([folder]).findings}
    for name in trial.also(trial.model):
        codes |= {f"{name}:{f.rule}" for f in bncheck.drift([folder], key=name).findings}
    return ",".join(sorted(codes)) or "-"


#: Updates until a running average has moved, whatever `every` is.
_AVERAGE = 30


def judged(trial: Trial, fault: Fault) -> str:
    """right, late, more (others too), or missed."""
    said = dict(trial.said())
    step = said.pop(fault.code, None)
    if step is None or step < fault.at:
        return "MISSED"
    if (
        fault.code != "BN102"
        and fault.late < 99
        and step - fault.at > max(_AVERAGE, fault.late * trial.every)
    ):
        return "LATE"
    return "more" if said else "right"


def chosen(words: list[str]) -> dict[str, tuple[Trial, Fault | None]]:
    """Those whose names have one of the words; --own and --aside are the halves."""
    everything: dict[str, tuple[Trial, Fault | None]] = {
        name: (trial, None) for name, trial in {**healthy(), **fresh_sound()}.items()
    }
    everything |= {**faulty(), **fresh_faulty()}
    for flag, wanted in (("--own", False), ("--aside", True)):
        if flag in words:
            everything = {n: pair for n, pair in everything.items() if set_aside(n) is wanted}
    words = [word for word in words if not word.startswith("--")]
    return {n: p for n, p in everything.items() if not words or any(w in n for w in words)}


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    logging.getLogger("bncheck.recording").setLevel(logging.ERROR)
    told: dict[str, int] = {}
    for name, (trial, fault) in chosen(words).items():
        with tempfile.TemporaryDirectory() as folder:
            trial.run(Path(folder))
            files = drifted(Path(folder), trial)
        if fault is None:
            verdict = "silent" if not trial.said() and files == "-" else "ALARM"
        else:
            verdict = judged(trial, fault)
        told[verdict] = told.get(verdict, 0) + 1
        said = " ".join(f"{code}@{step}" for code, step in trial.said()) or "-"
        print(f"{verdict:7} {name}: {said}; drift {files}", flush=True)
    print(", ".join(f"{number} {verdict}" for verdict, number in sorted(told.items())))


if __name__ == "__main__":
    main(sys.argv[1:])
