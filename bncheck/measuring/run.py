"""How a model is run on data, and what is asked beside the moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.measuring.distributed import Processes

#: Called after every batch with the samples done so far and, where known, those there are.
Progress: TypeAlias = Callable[[int, int | None], None]

#: metric(output, target) -> a number for the batch, higher is better.
Metric: TypeAlias = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Run:
    """On which device, with which processes, whom to tell, and what to find out.

    With `everything`, the batch cascade and the comparison also where all is well; with `shape`,
    counts of the values in 64 bins.
    """

    device: str = "cpu"
    processes: Processes = field(default_factory=Processes)
    progress: Progress = lambda done, total: None
    metric: Metric | None = None
    metric_name: str = "metric"
    train_batch_size: int | None = None
    everything: bool = False
    shape: bool = False
    thresholds: Thresholds = DEFAULT
