"""What the layers of every snapshot see on the same data: one model, one snapshot at a time.

All BatchNorm layers normalise with the batch, as in training: running statistics that lag would
otherwise reach every layer after them, and the lag itself could not be told from drift.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bncheck.measuring.agreement import agree_on_model
from bncheck.measuring.cascades import Cascade, run_cascade
from bncheck.measuring.distributed import Processes
from bncheck.measuring.histogram import BINS, Bins
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measure import refuse_few_samples
from bncheck.measuring.norms import TrackingNorm, channels_second
from bncheck.measuring.outputs import Outputs
from bncheck.measuring.proving import proven
from bncheck.reading.opening import open_checkpoint
from bncheck.series.distance import Statistics
from bncheck.subject.model import build_model
from bncheck.subject.setup import Measuring, instrumented

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from bncheck.measuring.moments import Moments

    Floats = NDArray[np.float64]

T = TypeVar("T")

#: eps of an output that nothing normalises, as a share of its layer's mean variance.
_RELATIVE_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Measured:
    """One layer on the data; `counts` (C, 64) are in the coordinates that were asked for."""

    statistics: Statistics
    counts: Floats | None = None


class Meter:
    """Measures snapshots one after another in one model; the user's own is never touched."""

    def __init__(self, measuring: Measuring, key: str | None, every_layer: bool) -> None:
        model = measuring.model
        if isinstance(model, str):
            model = build_model(model, measuring.model_args)
        self._measuring = replace(measuring, model=model)
        self._run = measuring.run()
        self._data = measuring.batches()
        self._key = key
        self._every = every_layer
        self.samples = 0
        self._subject: Instrumented | None = None

    def measure(
        self, path: Path, coordinates: Mapping[str, Statistics] | None = None
    ) -> dict[str, Measured]:
        """Load the snapshot and run the data through it.

        By layer, as the model calls it, in the order of execution.
        """
        subject = instrumented(self._measuring, open_checkpoint(path, self._key))
        agree_on_model(subject, self._run)
        subject = proven(subject, self._data, self._run)
        outputs = Outputs(subject.model) if self._every else None
        counter = _Counter(subject, outputs, coordinates or {})
        with counter.attached():
            seen = run_cascade(subject, self._data, Cascade.BATCH, self._run, outputs=outputs)
        refuse_few_samples(seen.samples, self._data.name)
        self.samples = seen.samples
        self._subject = subject
        counts = counter.counts(self._run.processes)
        eps = {norm.name: float(getattr(norm.module, "eps", 0.0)) for norm in subject.norms}
        return {
            name: Measured(_statistics(moments, eps.get(name)), counts.get(name))
            for name, moments in seen.moments.items()
        }

    def in_file(self, found: Mapping[str, T]) -> dict[str, T]:
        """What was measured, by the names that the last file has for the layers."""
        return dict(found) if self._subject is None else self._subject.in_file(found)


def _statistics(moments: Moments, eps: float | None) -> Statistics:
    """Population statistics and what their sampling noise adds to W2^2 against them."""
    var = moments.unbiased_var
    if eps is None:
        eps = _RELATIVE_EPS * float(var.mean())
    sigma2 = np.maximum(var + eps, np.finfo(np.float64).tiny)
    unit = (moments.var_of_means + moments.var_of_squares / (4 * sigma2)) / sigma2
    noise = float(unit.mean()) / max(moments.effective_images, 1.0)
    return Statistics(moments.mean.astype(np.float32), var.astype(np.float32), eps, noise)


class _Counter:
    """Counts the values of the layers whose coordinates are given."""

    def __init__(
        self,
        subject: Instrumented,
        outputs: Outputs | None,
        coordinates: Mapping[str, Statistics],
    ) -> None:
        import torch

        self._inputs = [norm for norm in subject.norms if norm.name in coordinates]
        self._outputs = outputs
        self._bins = {
            name: Bins(torch.from_numpy(held.mean).double(), torch.from_numpy(held.sigma))
            for name, held in coordinates.items()
        }
        self._totals: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for norm in self._inputs:
                handle = norm.module.register_forward_pre_hook(self._before(norm))
                stack.callback(handle.remove)
            if self._outputs is not None:
                stack.enter_context(self._outputs.watched(self._count))
            yield

    def counts(self, processes: Processes) -> dict[str, Floats]:
        """Counts by layer, over all processes."""
        totals = {
            name: processes.summed(self._totals[name].numpy() if name in self._totals else None)
            for name in sorted(self._bins)  # the same order in every process
        }
        return {
            name: total.astype(np.float64).reshape(-1, BINS)
            for name, total in totals.items()
            if total is not None
        }

    def _before(self, norm: TrackingNorm) -> Any:
        return lambda module, args: self._count(norm.name, args[0], norm.channels, norm.last)

    def _count(self, name: str, x: Tensor, channels: int, last: bool = False) -> None:
        if name not in self._bins:
            return
        images = channels_second(name, channels, x.detach(), last).cpu()
        total = self._totals.get(name)
        self._totals[name] = self._bins[name].count(images, (1, channels, 1), total)
