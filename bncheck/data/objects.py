"""Loaders, data sets, functions and arrays in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.words import a_kind
from bncheck.data.batches import Batch, Batches, DataOptions, dealt
from bncheck.data.files import LABELS, Arrays
from bncheck.data.forms import inputs_in, is_array, to_batch

if TYPE_CHECKING:
    import numpy as np

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
    if (arrays := _whole(value)) is not None:
        return dealt(Arrays(arrays, name, options), name, options)
    if not isinstance(value, (IterableDataset, DataLoader)) and _holds_samples(value, name):
        return replace(dealt(_DataSet(value, name, options), name, options), origin=value)
    if isinstance(value, IterableDataset):
        value = DataLoader(value, options.batch_size)
    if not isinstance(value, Iterable):
        raise BncheckError(
            f"gives {a_kind(value)}",
            "let it return batches, a Dataset, a DataLoader or arrays",
            name,
        )
    return Batches(
        lambda: _batches(again(), name, options),
        name,
        _length(value),
        options.max_samples,
        origin=value,
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
    elif isinstance(value, (tuple, list)) and len(value) > 1:
        label = value[-1] if is_array(value[0]) or inputs_in(value[0]) else None
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


def _whole(value: Any) -> dict[str, Any] | None:
    """All samples at once, by name: (x, y), ((x1, x2), y) or (dict, y) of arrays."""
    import numpy as np
    import torch

    if not (isinstance(value, tuple) and len(value) == 2):
        return None
    x, y = value
    if not isinstance(y, (torch.Tensor, np.ndarray)):
        return None
    if isinstance(x, (torch.Tensor, np.ndarray)):
        return {"x": x, "y": y}
    inputs = inputs_in(x)
    return {**inputs, LABELS[0]: y} if inputs and LABELS[0] not in inputs else None


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
