"""Loaders, data sets, functions and arrays in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
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
    if not isinstance(value, (IterableDataset, DataLoader)) and _holds_samples(value, name):
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


def _holds_samples(value: Any, name: str) -> bool:
    """Whether a sample can be picked by its number: a map-style Dataset, a list of (x, y).

    A list of batches looks alike but for the labels, which are a number in a sample.
    """
    from torch.utils.data import Dataset

    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return False
    if isinstance(value, Dataset) or not hasattr(value, "__iter__"):
        return True
    with contextlib.suppress(BncheckError), usercode.running(f"--data {name}"):
        return len(value) > 0 and _is_sample(value[0])
    return False  # a loader of somebody's own, whose items are something else


def _is_sample(value: Any) -> bool:
    """Whether it is one input with its label, and not a batch: (x, 3), {"image": x, "label": 3}."""
    if isinstance(value, Mapping):
        label = next((value[key] for key in LABELS if key in value), None)
    elif isinstance(value, (tuple, list)) and len(value) > 1 and _is_array(value[0]):
        label = value[-1]
    else:
        return False
    return label is not None and _is_single(label)


def _is_single(label: Any) -> bool:
    """Whether it is one number or one word, and no row of them."""
    import numpy as np

    shape = getattr(label, "shape", None)
    return isinstance(label, (int, float, str, np.number)) if shape is None else tuple(shape) == ()


class _DataSet:
    """Samples with a length: a torch Dataset, a list, an object with __getitem__."""

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
    given = _given(values, name)
    first = next(given, None)
    if first is None:
        raise BncheckError("gives no batches", "check the loader", name)
    given = chain([first], given)
    if _is_sample(first):  # a function that yields one after the other
        given = _collated(given, name, options.batch_size)
    yield from (to_batch(value, name, options) for value in given)


def _given(values: Iterable[Any], name: str) -> Iterator[Any]:
    with usercode.running(f"--data {name}"):
        iterator = iter(values)
    while True:
        with usercode.running(f"--data {name}"):
            try:
                value = next(iterator)
            except StopIteration:
                return
        yield value


def _collated(samples: Iterator[Any], name: str, size: int) -> Iterator[Any]:
    from torch.utils.data import default_collate

    while part := list(islice(samples, size)):
        with usercode.running(f"--data {name}"):
            value = default_collate(part)
        yield value


def to_batch(value: Any, name: str, options: DataOptions) -> Batch:
    """What a loader yields: x, (x, y), (x1, x2, ..., y) or a dict.

    Texts and other things without numbers in further places are left on the side.
    """

    def prepared(item: Any) -> Tensor:
        return prepared_input(_tensor(item, name), name, options)

    if isinstance(value, Mapping):
        label = next((key for key in LABELS if key in value), None)
        inputs = {str(key): item for key, item in value.items() if key != label}
        kept = {key: prepared(item) for key, item in inputs.items() if _is_array(item)}
        if not kept:
            raise BncheckError("gives a dict without inputs", "it needs an entry x", name)
        target = None if label is None else _labels(value[label], name)
        if len(kept) == 1:
            return Batch((next(iter(kept.values())),), {}, target)
        return Batch((), kept, target)
    if isinstance(value, (tuple, list)) and value:
        first, *others = value
        if not others:
            return Batch((prepared(first),))
        arrays = [item for item in others if _is_array(item) or _is_list_of_numbers(item)]
        if arrays:
            *inputs_, label = arrays
            return Batch((prepared(first), *map(prepared, inputs_)), {}, _labels(label, name))
        labels = next((item for item in others if _holds_numbers(item)), None)
        return Batch((prepared(first),), {}, labels)
    return Batch((prepared(value),))


def _tensor(item: Any, name: str) -> Tensor:
    import numpy as np
    import torch

    if isinstance(item, np.ndarray):
        item = as_tensor(item)
    if not isinstance(item, torch.Tensor):
        raise BncheckError(
            f"gives a batch that holds a {type(item).__name__}",
            "a batch is a tensor, (x, y) or a dict of tensors",
            name,
        )
    return item


def _labels(value: Any, name: str) -> Any:
    """Labels as a tensor where they are numbers; else as they are, for --metric."""
    import numpy as np
    import torch

    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return as_tensor(value)
    if isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(np.asarray(value)) if _is_list_of_numbers(value) else value


def _is_array(item: Any) -> bool:
    """Whether it is a tensor, or an array of numbers."""
    import numpy as np
    import torch

    if isinstance(item, np.ndarray):
        return item.dtype.kind in "biufc" and item.ndim > 0
    return isinstance(item, torch.Tensor)


def _is_list_of_numbers(item: Any) -> bool:
    import numpy as np

    numbers = (int, float, np.number)
    return (
        isinstance(item, (list, tuple))
        and bool(item)
        and all(isinstance(part, numbers) for part in item)
    )


def _holds_numbers(item: Any, depth: int = 0) -> bool:
    """Whether there is an array anywhere in it."""
    if _is_array(item):
        return True
    parts = item.values() if isinstance(item, Mapping) else item
    if isinstance(item, (Mapping, list, tuple)) and depth < 4:
        return any(_holds_numbers(part, depth + 1) for part in parts)
    return False
