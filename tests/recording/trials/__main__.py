"""Runs the trials and says what was said of each."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import torch

import bncheck
from tests.recording.trials.faulty import Fault, faulty
from tests.recording.trials.healthy import healthy
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


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    logging.getLogger("bncheck.recording").setLevel(logging.ERROR)
    told: dict[str, int] = {}
    everything: dict[str, tuple[Trial, Fault | None]] = {n: (t, None) for n, t in healthy().items()}
    everything |= faulty()
    for name, (trial, fault) in everything.items():
        if words and not any(word in name for word in words):
            continue
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
