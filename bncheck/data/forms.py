"""The forms of a batch: x, (x, y), (x1, x2, y), ((x1, x2), y), (dict, y), and dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bncheck.core.errors import BncheckError
from bncheck.core.words import a_kind
from bncheck.data.batches import Batch, DataOptions
from bncheck.data.files import LABELS
from bncheck.data.preparing import as_tensor, prepared_input

if TYPE_CHECKING:
    from torch import Tensor


def to_batch(value: Any, name: str, options: DataOptions) -> Batch:
    """What a loader yields: x, (x, y), (x1, x2, ..., y), ((x1, x2, ...), y), (dict, y) or a dict.

    Texts and other things without numbers in further places are left on the side.
    """

    def prepared(item: Any) -> Tensor:
        return prepared_input(_tensor(item, name), name, options)

    if isinstance(value, Mapping):
        label = next((key for key in LABELS if key in value), None)
        inputs = {str(key): item for key, item in value.items() if key != label}
        kept = {key: prepared(item) for key, item in inputs.items() if is_array(item)}
        if not kept:
            raise BncheckError("gives a dict without inputs", "it needs an entry x", name)
        return _named(kept, None if label is None else _labels(value[label], name))
    if isinstance(value, (tuple, list)) and value:
        first, *others = value
        if others and _are_of_samples(grouped := inputs_in(first), others[0]):
            kept = {key: prepared(item) for key, item in grouped.items()}
            return _named(kept, _labels(others[0], name))
        if not others:
            return Batch((prepared(first),))
        arrays = [item for item in others if is_array(item) or _is_list_of_numbers(item)]
        if arrays:
            *inputs_, label = arrays
            return Batch((prepared(first), *map(prepared, inputs_)), {}, _labels(label, name))
        labels = next((item for item in others if _holds_numbers(item)), None)
        return Batch((prepared(first),), {}, labels)
    return Batch((prepared(value),))


def _named(inputs: Mapping[str, Tensor], target: Any) -> Batch:
    if len(inputs) == 1:
        return Batch((next(iter(inputs.values())),), {}, target)
    return Batch((), inputs, target)


def _are_of_samples(inputs: Mapping[str, Any], label: Any) -> bool:
    """Whether these are inputs of as many samples as there are labels.

    A detector's list of images, beside a list of what is in each, is none.
    """
    rows = {int(item.shape[0]) if item.ndim else 0 for item in inputs.values()}
    if len(rows) != 1:
        return False
    if isinstance(label, Mapping):
        return _holds_numbers(label)
    if isinstance(label, (tuple, list)):
        return len(label) in rows if _is_list_of_numbers(label) else all(map(is_array, label))
    return not is_array(label) or {int(size) for size in label.shape[:1]} == rows


def inputs_in(value: Any) -> dict[str, Any]:
    """The inputs that are grouped, (x1, x2) or a dict, by name; those of a tuple by place.

    Empty where these are no inputs of the same samples.
    """
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items() if is_array(item)}
    if isinstance(value, (tuple, list)) and value and is_array(value[0]):
        return {str(place): item for place, item in enumerate(value) if is_array(item)}
    return {}


def _tensor(item: Any, name: str) -> Tensor:
    import numpy as np
    import torch

    if isinstance(item, np.ndarray):
        item = as_tensor(item)
    if not isinstance(item, torch.Tensor):
        raise BncheckError(
            f"gives a batch that holds {a_kind(item)}",
            "a batch is x, (x, y), (x1, x2, y), ((x1, x2), y), (dict, y) or a dict of tensors, "
            "with as many labels as samples",
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


def is_array(item: Any) -> bool:
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
    if is_array(item):
        return True
    parts = item.values() if isinstance(item, Mapping) else item
    if isinstance(item, (Mapping, list, tuple)) and depth < 4:
        return any(_holds_numbers(part, depth + 1) for part in parts)
    return False
