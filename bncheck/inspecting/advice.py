"""What to do about statistics, once they were measured."""

from __future__ import annotations

from enum import StrEnum


class Advice(StrEnum):
    """What to do about the statistics; `recalibrate` writes only where it is to recalibrate."""

    NOTHING = "nothing"
    RECALIBRATE = "recalibrate"
    IF_DATA_FIT = "recalibrate if the data are those of deployment"
    IF_PROVEN = "recalibrate if results show that it helps"
    LEAVE = "leave them"
