"""Sizes for the free axes of a model: those asked for, and for the others those that it runs at.

Which sizes a model takes is not written in it: detectors want multiples of 32, a transform of sound
wants some length. So it is run until one is accepted, the likely ones first.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bncheck.graph.dataflow import Graph
from bncheck.graph.specs import Conv, Norm
from bncheck.runtime.inputs import Input, Named, Sizes, batch_axes, free_axes, invented
from bncheck.runtime.refused import RefusedError

#: For axes other than the batch. Tiny ones come last: they leave little to compare.
LIKELY = (16, 32, 64, 224, 256, 320, 640, 512, 8, 4, 2, 1)
#: Those of known networks that take no other, and, for sounds and texts, of windows and seconds.
_RARE = (299, 28, 384, 128, 192, 96, 112, 448, 480, 416)
_LENGTHS = (1024, 2048, 4096, 16000, 48000)
#: Two samples, since one is a special case for many a model, and one where two are refused.
_BATCHES = (2, 1)
#: For a graph that has its batch written into a reshape although its input has none.
_RARE_BATCHES = (4, 8, 16, 32)
#: Axes of the input of a network for sounds or texts, at most.
_OF_A_SOUND = 3
#: Seconds and runs that the search may take.
_PATIENCE = 30.0
_TRIALS = 300

_TENSORS = "fold the part of it that takes tensors alone"
_GIVE = "give --input NAME=SIZES for every input, or --data with samples for it"
_OTHERS = "give other sizes, or leave --input out: then they are found by trying"

#: Runs a model. Raises RuntimeError, ValueError or the like where it does not take the inputs.
Run = Callable[[Named], Sequence[Any]]


@dataclass(frozen=True)
class Found:
    """Sizes at which a model runs; `free_batch`: with any number of samples, as far as was seen.

    `tied` are axes that have the size of the batch without its name, as those of a state.
    """

    sizes: Sizes
    free_batch: bool
    tied: tuple[str, ...] = ()
    #: Axes that were asked to have their sizes.
    asked: frozenset[str] = frozenset()

    def of_batch(self, inputs: Sequence[Input], batch: int) -> Sizes:
        """The same with another number of samples, where that may be chosen."""
        if not self.free_batch:
            return self.sizes
        varied = [n for n in (*batch_axes(inputs), *self.tied) if n not in self.asked]
        return {**self.sizes, **dict.fromkeys(varied, batch)}


def find(inputs: Sequence[Input], asked: Sizes, run: Run) -> Found:
    """The first sizes that the model takes. Raises RefusedError that says what was tried."""
    for given in inputs:
        if not given.is_tensor:
            raise RefusedError(f"its input {given.name} is not a tensor", _TENSORS)
    generator = np.random.default_rng(0)
    firsts = [name for name in batch_axes(inputs) if name not in asked]
    begin, refused = time.monotonic(), ""
    tried: list[Sizes] = []
    for sizes in itertools.islice(_candidates(inputs, asked), _TRIALS):
        if tried and time.monotonic() - begin > _PATIENCE:
            break
        try:
            results = run(invented(inputs, sizes, generator))
        except NotImplementedError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            refused = refused or (str(error).splitlines() or [type(error).__name__])[0][:160]
        else:
            if any(np.size(result) for result in results):
                batch = bool(firsts) and all(sizes[name] == _BATCHES[0] for name in firsts)
                found = Found(sizes, batch, asked=frozenset(asked))
                return _with_ties(found, inputs, asked, run) if batch else found
            refused = refused or "its outputs are empty"
        tried.append(sizes)
    names = _tried(inputs, asked, tried)
    vague = [given.name for given in inputs if not given.ranked]
    if vague:
        names = f"it does not say how many axes its input {vague[0]} has: "
    # Where the number of samples alone is free, the sizes are not what it refuses.
    sized = vague or any(n not in asked and n not in batch_axes(inputs) for n in free_axes(inputs))
    raise RefusedError(f"{names}{refused}", _GIVE if sized else _OTHERS if asked else "")


def _with_ties(found: Found, inputs: Sequence[Input], asked: Sizes, run: Run) -> Found:
    """Axes that must be as large as the batch, where some happen to be."""
    firsts = batch_axes(inputs)
    sizes = {found.sizes[name] for name in firsts}
    tied = tuple(
        name
        for name in free_axes(inputs)
        if name not in firsts and name not in asked and {found.sizes[name]} == sizes
    )
    if not tied:
        return found
    generator, other = np.random.default_rng(0), next(iter(sizes)) + 1
    for tried in (found, replace(found, tied=tied)):
        try:
            run(invented(inputs, tried.of_batch(inputs, other), generator))
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue
        return tried
    return replace(found, free_batch=False)


def _candidates(inputs: Sequence[Input], asked: Sizes) -> Iterator[Sizes]:
    """All other axes alike, then by kind, each with two samples and with one."""
    unknown = [name for name in free_axes(inputs) if name not in asked]
    firsts = [name for name in batch_axes(inputs) if name in unknown]
    others = [name for name in unknown if name not in firsts]
    kinds = list(dict.fromkeys(_kind(inputs, name) for name in others))
    rare = _RARE if any(axes > _OF_A_SOUND for axes, _ in kinds) else _LENGTHS
    alike = [[size] * len(kinds) for size in (*LIKELY, *rare)] if kinds else [[]]
    mixed = itertools.product(LIKELY, repeat=len(kinds)) if 1 < len(kinds) < 4 else ()
    for each in itertools.chain(alike, mixed):
        by_kind = dict(zip(kinds, each, strict=True))
        rest = {name: by_kind[_kind(inputs, name)] for name in others}
        for batch in _BATCHES if firsts else _BATCHES[:1]:
            yield {**asked, **rest, **dict.fromkeys(firsts, batch)}
    for batch, size in itertools.product(_RARE_BATCHES if firsts else (), (32, 224)):
        yield {**asked, **dict.fromkeys(others, size), **dict.fromkeys(firsts, batch)}


def _kind(inputs: Sequence[Input], name: str) -> tuple[int, bool]:
    """What an axis is likely to be: lengths and places in a plane differ from channels."""
    given = next(each for each in inputs if name in each.shape)
    return len(given.shape), len(given.shape) > 2 and given.shape.index(name) == 1


def _tried(inputs: Sequence[Input], asked: Sizes, tried: Sequence[Sizes]) -> str:
    """Which sizes were tried, in words."""
    names = [name for name in free_axes(inputs) if name not in asked]
    if not names:
        return ""
    alike: dict[str, list[str]] = {}
    for name in names:
        given = ", ".join(map(str, sorted({sizes[name] for sizes in tried})))
        alike.setdefault(given, []).append(name)
    parts = [f"{' and '.join(each[:4])} = {sizes}" for sizes, each in alike.items()]
    return f"with {'; '.join(parts[:4])}: "


def told_by_weights(graph: Graph) -> Sizes:
    """The sizes of free axes that are also those of weights: how many channels a call reads."""
    found: dict[str, int] = {}
    for op in graph.ops:
        shape, weight = graph.shape(op.input(0)), graph.shape(op.input(1))
        if not shape or not weight or len(shape) < 2 or not isinstance(op.spec, Conv | Norm):
            continue
        name, size = shape[1], weight[1] if isinstance(op.spec, Conv) else weight[0]
        if isinstance(name, str) and isinstance(size, int):
            groups = op.spec.groups if isinstance(op.spec, Conv) else 1
            found.setdefault(name.removeprefix("?"), size * groups)
    return found
