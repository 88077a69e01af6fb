"""Loaders, data sets, functions and arrays in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.data.batches import Batch, Batches, DataOptions, dealt
from bncheck.data.files import LABELS, Arrays
from bncheck.data.preparing import as_tensor, prepared_input

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

OPTION: Final = "--data"


def from_object(value: Any, name: str, options: DataOptions) -> Batches:
    """A function is called anew for every pass, so it may return a generator."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset, IterableDataset

    again: Callable[[], Any] = lambda: value  # noqa: E731
    if callable(value) and not isinstance(value, (DataLoader, Dataset)):
        function = value
        again = lambda: usercode.call(function, (), name, OPTION)  # noqa: E731
        value = again()
        if not isinstance(value, Iterator):  # a loader is built once
            again = lambda: value  # noqa: E731
    elif isinstance(value, Iterator):
        raise BncheckError(
            "is a generator, which can be iterated only once",
            "name the function that returns it",
            name,
        )
    if isinstance(value, torch.Tensor | np.ndarray):
        return dealt(Arrays({"x": value}, name, options), name, options)
    if isinstance(value, Mapping):
        return dealt(Arrays(value, name, options), name, options)
    if _is_pair_of_arrays(value):
        return dealt(Arrays(dict(zip("xy", value, strict=True)), name, options), name, options)
    sized = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if isinstance(value, Dataset) and not isinstance(value, IterableDataset) and sized:
        return dealt(_DataSet(value, name, options), name, options)
    if isinstance(value, IterableDataset):
        value = DataLoader(value, options.batch_size)
    if not isinstance(value, Iterable):
        raise BncheckError(
            f"gives a {type(value).__name__}",
            "let it return batches, a Dataset, a DataLoader or arrays",
            name,
        )
    return Batches(
        lambda: _batches(again(), name, options), name, _length(value), options.max_samples
    )


class _DataSet:
    """A torch Dataset with a length."""

    def __init__(self, data: Any, name: str, options: DataOptions) -> None:
        self._data = data
        self._name = name
        self._options = options

    def __len__(self) -> int:
        return len(self._data)

    def pick(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        """The samples at these places, collated as a DataLoader does."""
        from torch.utils.data import default_collate

        with usercode.running(f"--data {self._name}"):
            value = default_collate([self._data[int(index)] for index in indices])
        return to_batch(value, self._name, self._options)


def _is_pair_of_arrays(value: Any) -> bool:
    import numpy as np
    import torch

    arrays = (torch.Tensor, np.ndarray)
    pair = isinstance(value, tuple) and len(value) == 2
    return pair and all(isinstance(part, arrays) for part in value)


def _length(loader: Any) -> int | None:
    with contextlib.suppress(TypeError, AttributeError, NotImplementedError):
        return len(loader.dataset)
    return None


def _batches(values: Iterable[Any], name: str, options: DataOptions) -> Iterator[Batch]:
    with usercode.running(f"--data {name}"):
        iterator = iter(values)
    empty = True
    while True:
        with usercode.running(f"--data {name}"):
            try:
                value = next(iterator)
            except StopIteration:
                break
        empty = False
        yield to_batch(value, name, options)
    if empty:
        raise BncheckError("gives no batches", "check the loader", name)


def to_batch(value: Any, name: str, options: DataOptions) -> Batch:
    """What a loader yields: x, (x, y), (x1, x2, ..., y) or a dict."""
    import numpy as np
    import torch

    def tensor(item: Any) -> Tensor:
        if isinstance(item, np.ndarray):
            item = as_tensor(item)
        if not isinstance(item, torch.Tensor):
            raise BncheckError(
                f"gives a batch that holds a {type(item).__name__}",
                "a batch is a tensor, (x, y) or a dict of tensors",
                name,
            )
        return item

    def prepared(item: Any) -> Tensor:
        return prepared_input(tensor(item), name, options)

    if isinstance(value, Mapping):
        label = next((key for key in LABELS if key in value), None)
        inputs = {str(key): item for key, item in value.items() if key != label}
        kept = {key: prepared(item) for key, item in inputs.items() if hasattr(item, "shape")}
        if not kept:
            raise BncheckError("gives a dict without inputs", "it needs an entry x", name)
        target = None if label is None else tensor(value[label])
        if len(kept) == 1:
            return Batch((next(iter(kept.values())),), {}, target)
        return Batch((), kept, target)
    if isinstance(value, (tuple, list)):
        if len(value) < 2:
            return Batch(tuple(prepared(item) for item in value))
        *inputs_, label = value
        labels = label if isinstance(label, torch.Tensor) else torch.as_tensor(np.asarray(label))
        return Batch(tuple(prepared(item) for item in inputs_), {}, labels)
    return Batch((prepared(value),))
