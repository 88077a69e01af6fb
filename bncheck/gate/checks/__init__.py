"""The checks, a file each, in the order in which they are made."""

from __future__ import annotations

from typing import Final

from bncheck.gate.check import Check
from bncheck.gate.checks.fold import fold
from bncheck.gate.checks.inspect import inspect

CHECKS: Final[tuple[Check, ...]] = (inspect, fold)
