"""What a check is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bncheck.core.errors import BncheckError
from bncheck.gate.declared import Declared
from bncheck.gate.report import CheckReport
from bncheck.policy.config.settings import Model


@dataclass(frozen=True)
class Check:
    """One question to a checkpoint, named like the command that asks it.

    `run` gives the command's report. What cannot be done raises BncheckError; a report of a series
    has `errors`, too, for those of its snapshots that could not be read.
    """

    name: str
    wanted: Callable[[Model], bool]
    run: Callable[[Declared], CheckReport]
    errors: Callable[[Any], Sequence[BncheckError]] = lambda report: ()
