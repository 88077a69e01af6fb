"""Which layers see the data before anything was normalised, and which of the inputs they see.

How data are prepared shows there and nowhere else: what comes later sees normalised values. A
model has such a layer for every input, and more where branches start at one. Nothing is traced: a
layer whose input stays the same to the last bit, whatever the layers before it give, has none
before it; and it reads the inputs that change it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.data import Batch, Batches
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.norms import TrackingNorm, in_eval_mode
from bncheck.measuring.own_update import input_of
from bncheck.measuring.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    #: Of each layer, of each call: two sums of what it is fed.
    _Sums: TypeAlias = dict[str, list[tuple[float, float]]]

#: So many samples are enough to see what depends on what.
_SAMPLES: Final = 4


@dataclass(frozen=True)
class Entry:
    """A layer that reads inputs, by their places; `itself` where it is fed one as it is."""

    layer: str
    inputs: tuple[int, ...]
    itself: bool = False


def entries(subject: Instrumented, data: Batches, run: Run) -> tuple[Entry, ...]:
    """The layers with none before them, by the file's names, in the order of execution."""
    mine = b"" if run.processes.rank else json.dumps(_of_rank_0(subject, data, run)).encode()
    said = run.processes.told("layers that read inputs", mine)[0]
    return tuple(Entry(name, tuple(read), itself) for name, read, itself in json.loads(said))


def _of_rank_0(subject: Instrumented, data: Batches, run: Run) -> list[tuple[object, ...]]:
    batch = next((b for b in data if b.size), None)
    found: tuple[Entry, ...] = ()
    if batch is not None:
        few = prepared(subject.model, batch.part(0, _SAMPLES), 0, run.device)
        with contextlib.suppress(BncheckError):  # a model may need batches as they come
            found = _entries(subject, few)
    return [(subject.file_name(e.layer), e.inputs, e.itself) for e in found]


def _entries(subject: Instrumented, batch: Batch) -> tuple[Entry, ...]:
    as_it_is, others = _fed(subject, batch), _fed(subject, batch, outputs=True)
    itself = as_it_is.itself
    first = [name for name, sums in as_it_is.sums.items() if others.sums.get(name) == sums]
    places = [i for i, x in enumerate(batch.inputs) if x.is_floating_point()]
    if len(batch.inputs) == 1:
        return tuple(Entry(name, (0,) if places else (), name in itself) for name in first)
    read: dict[str, list[int]] = {name: [] for name in first}
    for place in places:
        moved = _fed(subject, batch.with_input(place, _other))
        for name in first:
            if moved.sums.get(name) != as_it_is.sums[name]:
                read[name].append(place)
    return tuple(Entry(name, tuple(read[name]), name in itself) for name in first)


def _other(x: Tensor) -> Tensor:
    """Other values than x, also where these are 0."""
    return 2 * x + 1


class _Fed:
    """What each layer is fed in a forward."""

    def __init__(self, batch: Batch) -> None:
        self.sums: _Sums = {}
        self.itself: set[str] = set()
        self._inputs = [x for x in batch.inputs if x.is_floating_point()]

    def note(self, norm: TrackingNorm, x: Tensor) -> None:
        wide = x.detach().double()
        sums = float(wide.sum()), float(wide.square().sum())
        self.sums.setdefault(norm.name, []).append(sums)
        if any(_same_numbers(x, given) for given in self._inputs):
            self.itself.add(norm.name)


def _same_numbers(x: Tensor, given: Tensor) -> bool:
    """Whether two tensors hold the same numbers, in whatever order."""
    import torch

    if x.numel() != given.numel():
        return False
    return torch.equal(x.double().flatten().sort().values, given.double().flatten().sort().values)


def _fed(subject: Instrumented, batch: Batch, outputs: bool = False) -> _Fed:
    """What layers are fed of a batch; with `outputs`, if all layers before gave something else."""
    import torch

    fed = _Fed(batch)

    def before(norm: TrackingNorm) -> Any:
        return lambda _, args, kwargs: fed.note(norm, input_of(args, kwargs))

    def after(_module: Any, _args: Any, output: Any) -> Any:
        return _other(output) if isinstance(output, torch.Tensor) else None

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(in_eval_mode(subject.model))
        for norm in subject.norms:
            hook = norm.module.register_forward_pre_hook(before(norm), with_kwargs=True)
            stack.callback(hook.remove)
            if outputs:
                stack.callback(norm.module.register_forward_hook(after).remove)
        forward(subject.model, batch, 0)
    return fed


def of_input(found: Sequence[Entry], place: int) -> list[Entry]:
    """The layers that read an input."""
    return [entry for entry in found if place in entry.inputs]
