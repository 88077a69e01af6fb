"""The batch cascade once more, on batches that training may have ended with.

Each layer normalises with the batch, as in training, so a batch of one class, or on another scale,
changes what deep layers see otherwise than its share in mixed batches would say. Such batches are
put together from the data and run; the model is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.data import Batch, Batches
from bncheck.data.batches import joined
from bncheck.measuring.biases import biases
from bncheck.measuring.collector import Collector
from bncheck.measuring.dropout import dropping
from bncheck.measuring.forward import forward, preparing
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measurement import Replay, Scatter, Seen
from bncheck.measuring.merging import Merging, by_call
from bncheck.measuring.messages import Counts, Parts
from bncheck.measuring.moments import Moments, unpack
from bncheck.measuring.norms import in_eval_mode, spare_statistics
from bncheck.measuring.replay import Refuted, replays
from bncheck.measuring.run import Run
from bncheck.measuring.untrained import untrained_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")

_SAMPLES: Final = 512
_FEW: Final = 128
#: So many samples show what feeds what.
_ONE: Final = 4
#: A kind of fewer samples has no statistics to speak of.
_LEAST: Final = 8
_SEED: Final = 0
#: So many small batches show what one leaves, and how much the next may differ.
_SMALL: Final = 128


@dataclass(frozen=True, eq=False)
class Rerunning:
    """What can be asked of the model and the data that were measured.

    `kinds` are those of the samples, by number of their batch.
    """

    subject: Instrumented
    data: Batches
    run: Run
    kinds: Mapping[int, Counts]

    def other_code(self, refuted: Refuted) -> Sequence[Replay]:
        """What layers see with other code between them, where none of them refutes it."""
        return replays(self.subject, self.data, self.run, refuted)

    def changed(self, change: Callable[[Tensor], Tensor], place: int | None = None) -> Seen:
        """What layers see of changed inputs, or of one; nothing where the model takes none."""
        batches = self._batches(_FEW)[0]
        if place is None:
            return self._together(self._seen(batches, lambda batch: batch.map(change)))
        return self._together(self._seen(batches, lambda batch: batch.with_input(place, change)))

    def with_dropout(self) -> Seen:
        """What layers see while dropout drops, as in training."""
        import torch

        batches = self._batches(_SAMPLES)[0]

        def seeded(number: int) -> Batch:
            torch.manual_seed(number)
            return batches[number]

        with dropping(self.run.device):
            return self._together(self._seen(range(len(batches)), seeded))

    def input_scale(self) -> tuple[float, float]:
        """Mean and standard deviation of all numbers in the inputs."""
        import torch

        inputs = [batch.inputs[0].double().flatten() for batch in self._batches(_FEW)[0]]
        values = torch.cat(inputs) if inputs else torch.zeros(2, dtype=torch.float64)
        return float(values.mean()), float(values.std())

    def of_each_kind(self, most: int = _SAMPLES) -> Mapping[int, Seen]:
        """What layers see of batches that are all of one kind, of so many samples at most each."""
        whole, kinds, _ = self._whole
        if whole is None:
            return {}
        places = {kind: np.flatnonzero(kinds == kind)[:most] for kind in np.unique(kinds).tolist()}
        enough = [kind for kind, found in places.items() if len(found) >= _LEAST]
        seen = self._seen(enough, lambda kind: whole.picked(places[kind]))
        return {kind: self._together([one]) for kind, one in zip(enough, seen, strict=True) if one}

    def in_shares(self, shares: Mapping[int, float], batches: int | None = None) -> Seen:
        """What layers see of batches, or of the first few, in which kinds have other shares."""
        whole, kinds, size = self._whole
        if whole is None:
            return {}
        weights = np.zeros(len(kinds))
        for kind, share in shares.items():
            of_kind = kinds == kind
            weights[of_kind] = share / max(int(of_kind.sum()), 1)
        if not weights.sum():
            return {}
        chance = np.random.default_rng(_SEED)
        chosen = chance.choice(len(kinds), len(kinds), p=weights / weights.sum())
        parts = np.array_split(chosen, -(-len(chosen) // max(_LEAST, size)))
        return self._together(self._seen(parts[:batches], lambda part: whole.picked(part)))

    def in_batches_of(self, size: int, most: int = _SMALL) -> Mapping[str, Scatter]:
        """What some small batches of shuffled samples leave in each layer, where they can be."""
        whole = self._joined
        if whole is None or whole.size < _LEAST * size:
            return {}
        order = np.random.default_rng(_SEED).permutation(whole.size)
        parts = [order[start : start + size] for start in range(0, whole.size - size + 1, size)]
        seen = self._seen(parts[:most], lambda part: whole.picked(part))
        if not all(seen):
            return {}
        by_layer = [by_call({n: unpack(rows) for n, rows in one.items()})[0] for one in seen]
        common = [name for name in by_layer[0] if all(name in one for one in by_layer)]
        found = {name: _scatter([one[name] for one in by_layer]) for name in common}
        return self.subject.in_file(found)

    def biases(self) -> Mapping[str, NDArray[np.float64]]:
        """The bias of the module that feeds a layer, where one does."""

        def work(batch: Batch) -> Parts:
            try:
                return biases(self.subject, batch.part(0, _ONE))
            except BncheckError:  # a model may need batches as they come
                return {}

        batches = self._batches(_ONE)[0][:1]
        found = self.run.processes.dealt("biases", batches, work)
        return self.subject.in_file(found[0]) if found else {}

    def untrained(self) -> tuple[str, ...]:
        """Convolutions and linear layers at PyTorch's initial weights."""
        return untrained_layers(self.subject.model)

    @cached_property
    def _joined(self) -> Batch | None:
        """The samples as one batch, where all have one shape."""
        batches = self._batches(_SAMPLES)[0]
        shapes = {tuple(tuple(x.shape[1:]) for x in b.inputs) for b in batches}
        return joined([Batch(b.args, b.kwargs) for b in batches]) if len(shapes) == 1 else None

    @cached_property
    def _whole(self) -> tuple[Batch | None, np.ndarray[tuple[int], np.dtype[np.int64]], int]:
        """The samples whose kinds are known, as one batch, and the size of the data's first."""
        batches, kinds = self._batches(_SAMPLES)
        pairs = [(b, k) for b, k in zip(batches, kinds, strict=True) if k is not None]
        shapes = {tuple(tuple(x.shape[1:]) for x in b.inputs) for b, _ in pairs}
        if len(shapes) != 1:
            return None, np.zeros(0, np.int64), 0
        inputs = [Batch(b.args, b.kwargs) for b, _ in pairs]
        return joined(inputs), np.concatenate([k for _, k in pairs]), batches[0].size

    def _batches(self, samples: int) -> tuple[list[Batch], list[Counts | None]]:
        """Batches with the kinds of their samples."""
        prepare = preparing(self.subject.model, self.run.device)
        found: list[Batch] = []
        kinds: list[Counts | None] = []
        for number, batch in enumerate(self.data.first(samples)):
            if batch.size:
                found.append(prepare(batch, number))
                kinds.append(self.kinds.get(number))
        return found, kinds

    def _seen(self, items: Sequence[T], batch: Callable[[T], Batch]) -> list[Parts]:
        """What layers see of each item's batch, packed; empty where the model rejects it.

        Every batch has pivots of its own, so that it does not matter which rank runs it.
        """
        import torch

        subject = self.subject
        collector = Collector(subject.norms, True, None, subject.own)

        def work(item: T) -> Parts:
            collector.restart()
            try:
                forward(subject.model, batch(item), 0)
                return collector.take(0)
            except BncheckError:  # a model may need batches as they come, or overflow
                return {}

        with (
            torch.no_grad(), in_eval_mode(subject.model), spare_statistics(subject.norms),
            collector.attached(),
        ):  # fmt: skip
            return self.run.processes.dealt("other batches", items, work)

    def _together(self, seen: Sequence[Parts]) -> Seen:
        """The moments of all batches together; empty where the model rejected one."""
        if not all(seen):
            return {}
        merging = Merging()
        for one in seen:
            merging.add(one)
        return self.subject.in_file(by_call(merging.moments)[0])


def _scatter(seen: Sequence[Moments]) -> Scatter:
    means = np.stack([moments.mean for moments in seen])
    variances = np.stack([moments.unbiased_var for moments in seen])
    return Scatter(
        means.mean(axis=0), variances.mean(axis=0), means.var(axis=0, ddof=1),
        variances.var(axis=0, ddof=1), len(seen),
    )  # fmt: skip
