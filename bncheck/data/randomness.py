"""What is random in a pass over the data: the same in every pass, and the caller's afterwards."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

_SEED: Final = 0
#: A loader holds a sampler, that one another, and each may hold a data set of data sets.
_DEPTH: Final = 5


@contextmanager
def repeatable(source: object) -> Iterator[None]:
    """A pass over a loader draws what the last one drew.

    Generators of everybody (torch's, NumPy's, Python's) begin at a seed; those that the loader, its
    samplers or its data hold begin where they are. All are put back, so the next pass of the
    caller's own draws what it would have drawn.
    """
    import torch

    with ExitStack() as stack, torch.random.fork_rng(devices=[]):
        for put_back in _states(source, _DEPTH):
            stack.callback(put_back)
        stack.callback(random.setstate, random.getstate())
        random.seed(_SEED)
        if (shared := sys.modules.get("numpy.random")) is not None:
            stack.callback(shared.set_state, shared.get_state())
            shared.seed(_SEED)
        _seed()
        yield


def _seed() -> None:
    """Of torch's generators; without an accelerator, manual_seed costs more than small passes."""
    import torch

    seeding = torch if torch.accelerator.is_available() else torch.default_generator
    seeding.manual_seed(_SEED)


def _states(value: Any, depth: int) -> Iterator[Callable[[], object]]:
    """For each generator that a loader or a part of it holds, what puts its state back."""
    from torch.utils.data import DataLoader, Dataset, Sampler

    held = vars(value).values() if hasattr(value, "__dict__") else ()
    for item in held:
        if (put_back := _putting_back(item)) is not None:
            yield put_back
        parts = item if isinstance(item, (list, tuple)) and len(item) <= depth else (item,)
        for part in parts if depth else ():
            if isinstance(part, (DataLoader, Dataset, Sampler)):
                yield from _states(part, depth - 1)


def _putting_back(item: Any) -> Callable[[], object] | None:
    """What gives a generator the state that it has now; None for what is no generator."""
    import torch

    if isinstance(item, torch.Generator):
        state = item.get_state()
        return lambda: item.set_state(state)
    if isinstance(item, random.Random):
        drawn = item.getstate()
        return lambda: item.setstate(drawn)
    shared = sys.modules.get("numpy.random")
    if shared is not None and isinstance(item, shared.Generator):
        bits = item.bit_generator.state
        return lambda: setattr(item.bit_generator, "state", bits)
    if shared is not None and isinstance(item, shared.RandomState):
        old = item.get_state()
        return lambda: item.set_state(old)
    return None
