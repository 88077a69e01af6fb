"""Where a training is: its step, its epoch, and the learning rates that brought it there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

#: Updates after which a running average with momentum 0.1 has followed most of the way.
_FOLLOWED: Final = 10


@dataclass
class Clock:
    """`rate` is the highest learning rate since the last snapshot.

    `peak` is the highest of those whose updates the last snapshot's averages had followed: that of
    the recorded step itself moves the network after its batch was seen, and those just before are
    hardly in an average. What they move is moved in the next interval.
    `bad_since` is the step since which every loss that was told is not finite.
    """

    step: int = 0
    epoch: int | None = None
    loss: Any = None
    lr: float | None = None
    rate: float | None = None
    peak: float | None = None
    bad_since: int | None = None
    _followed: float | None = None
    _recent: deque[float | None] = field(default_factory=deque)

    def tick(self, step: int, epoch: int | None, loss: Any, lr: float | None) -> None:
        """An update."""
        self.step, self.loss, self.lr = step, loss, lr
        self.epoch = self.epoch if epoch is None else epoch
        self.rate = _higher(self.rate, lr)
        self._recent.append(lr)
        if len(self._recent) > _FOLLOWED:
            self._followed = _higher(self._followed, self._recent.popleft())
        if getattr(getattr(loss, "device", None), "type", "cpu") == "cpu":  # others would wait
            self.look()

    def look(self) -> float | None:
        """The loss of this step; one on an accelerator is waited for."""
        number = number_of(self.loss)
        if number is not None and math.isfinite(number):
            self.bad_since = None
        elif number is not None and self.bad_since is None:
            self.bad_since = self.step
        return number

    def recorded(self) -> None:
        """The next interval begins."""
        self.peak, self.rate = self._followed, None

    def resume(self, rates: Iterable[float]) -> None:
        """The rates of a training that goes on."""
        self.peak = self._followed = max(rates, default=None)


def number_of(value: Any) -> float | None:
    """A number or a tensor of one number as a float; None for anything else."""
    if value is None:
        return None
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _higher(first: float | None, second: float | None) -> float | None:
    known = [rate for rate in (first, second) if rate is not None]
    return max(known, default=None)


def rate_of(optimizer: Any) -> float | None:
    """The highest learning rate of an optimizer's groups."""
    rates = [number_of(group.get("lr")) for group in getattr(optimizer, "param_groups", ())]
    return max((rate for rate in rates if rate is not None), default=None)
