"""What a check is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bncheck.gate.subject import Subject
from bncheck.policy.config.settings import Model
from bncheck.reporting.formats import View


@dataclass(frozen=True)
class Check:
    """One question to a checkpoint, named like the command that asks it.

    `run` gives the command's report, a frozen dataclass with `findings`; `view` shows one. What
    cannot be done raises BncheckError.
    """

    name: str
    wanted: Callable[[Model], bool]
    run: Callable[[Subject], Any]
    view: Callable[[Subject, Any], View]
