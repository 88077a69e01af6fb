"""Shards: an index that says which file holds which tensor, and the files beside it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError, quoted
from bncheck.core.limits import MAX_TENSORS, MAX_TEXT_RECORD_BYTES
from bncheck.reading.json_text import parse
from bncheck.reading.referred import referred
from bncheck.reading.source import Source
from bncheck.reading.tensors import LazyTensor, LoadedTensor, StoredPart

T = TypeVar("T")

#: Gives the tensors of one shard.
ReadShard: TypeAlias = Callable[[Path, Budget], Mapping[str, LazyTensor]]


class Shards:
    """The tensors that a `*.index.json` distributes over files; each is opened once, on demand."""

    def __init__(self, path: Path, index: Source, read_shard: ReadShard) -> None:
        self._folder = path.parent
        self._budget = index.budget
        self._read_shard = read_shard
        self._shard_of = _shards(path, index)
        self._opened: dict[str, Mapping[str, LazyTensor]] = {}

    def tensors(self) -> dict[str, LazyTensor]:
        """All tensors of the index, by name."""
        return {name: self._tensor(name) for name in self._shard_of}

    def unlisted(self) -> list[str]:
        """Tensors in the shards that the index does not give to that shard.

        Loaders that take whole shards load them, too, maybe over others of the same name. Shards
        that cannot be read are left out: an error where the tensors are needed, and there alone.
        """
        return [
            name
            for shard, names in self._readable()
            for name in names
            if self._shard_of.get(name) != shard
        ]

    def _readable(self) -> Iterator[tuple[str, Mapping[str, LazyTensor]]]:
        for shard in dict.fromkeys(self._shard_of.values()):
            with contextlib.suppress(BncheckError):
                yield shard, self._open(shard)
            self._budget.check()  # what was not looked at for want of it is not known

    @cached_property
    def _holders(self) -> Counter[str]:
        """In how many shards each tensor lies; one that cannot be read is an error elsewhere."""
        return Counter(name for _, names in self._readable() for name in names)

    def _open(self, shard: str) -> Mapping[str, LazyTensor]:
        if shard not in self._opened:
            self._opened[shard] = self._read_shard(referred(self._folder, shard), self._budget)
        return self._opened[shard]

    def _tensor(self, name: str) -> LazyTensor:
        load = partial(self._using, name, lambda tensor: tensor.read())
        return LoadedTensor(load, parts=partial(self._using, name, lambda t: [StoredPart((), t)]))

    def _using(self, name: str, use: Callable[[LazyTensor], T]) -> T:
        shard = self._shard_of[name]
        try:
            tensor = self._open(shard)[name]
            if self._holders[name] > 1:
                raise BncheckError(
                    f"is not the only shard with a tensor {quoted(name)}, and loaders differ "
                    "in which they take",
                    "do not trust it; download the model again",
                )
            return use(tensor)
        except KeyError:
            raise BncheckError(f"has no tensor {name[:60]!r}", "download it again", shard) from None
        except BncheckError as error:
            raise error.about(shard) from None


def _shards(path: Path, source: Source) -> dict[str, str]:
    if source.size > MAX_TEXT_RECORD_BYTES:
        raise BncheckError(
            "is too long for an index of shards (limit MAX_TEXT_RECORD_BYTES)", "check the path"
        )
    try:
        index = parse(source.head(source.size), source.budget)
        weight_map = dict(index["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BncheckError(
            "is JSON, but not an index of shards (it has no weight_map)",
            "give bncheck the checkpoint or the *.index.json beside its shards",
        ) from None
    if len(weight_map) > MAX_TENSORS:
        raise BncheckError(
            f"names more than {MAX_TENSORS:,} tensors (limit MAX_TENSORS)", "split the model"
        )
    for shard in dict.fromkeys(map(str, weight_map.values())):
        referred(path.parent, shard)
    return {str(name): str(shard) for name, shard in weight_map.items()}
