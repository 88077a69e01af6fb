"""`--data` becomes batches that can be gone through again and again.

Files and folders are dealt out in a fixed random order: batches of one class each, as a sorted
folder gives them, would say little about the statistics of training. Loaders and functions keep
their own order, with torch's generator seeded alike before every pass.
"""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.words import shortened
from bncheck.data.batches import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_SAMPLES,
    Batch,
    Batches,
    DataOptions,
    dealt,
)
from bncheck.data.files import Arrays, read_arrays
from bncheck.data.forms import to_batch
from bncheck.data.images import ImageFolder
from bncheck.data.objects import OPTION, from_object
from bncheck.reading.remote import is_url

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "DEFAULT_MAX_SAMPLES",
    "Batch",
    "Batches",
    "DataOptions",
    "check_shapes",
    "open_data",
    "to_batch",
]


def open_data(data: object, options: DataOptions | None = None) -> Batches:
    """Batches from a spec (file, folder, TARGET:CALLABLE) or from an object that gives them."""
    options = options or DataOptions()
    if isinstance(data, (str, Path)):
        if isinstance(data, str) and is_url(data):
            raise BncheckError("is a URL", "download the data, and give --data the file", data)
        path = Path(data)
        about_images = "--grey" if options.grey else "--size" if options.size else ""
        if about_images and not os.path.isdir(path) and (os.path.isfile(path) or ":" in str(data)):
            raise BncheckError(
                f"{about_images} is about folders of images", "leave it out", str(data)
            )
        if os.path.isdir(path):  # unlike is_dir, False for any name
            images = ImageFolder(path, options)
            return replace(dealt(images, str(data), options, fixed=True), note=images.note)
        if os.path.isfile(path):
            arrays = Arrays(read_arrays(path), str(data), options)
            return dealt(arrays, str(data), options, fixed=True)
        if isinstance(data, Path) or ":" not in data:
            raise BncheckError("does not exist", "check the path given to --data", str(data))
        found = usercode.resolve(data, OPTION)
        return from_object(found, data, options)
    return from_object(data, "data", options)


def check_shapes(model: nn.Module, batch: Batch, number: int = 0) -> Batch:
    """The batch with dict entries given to the parameters of `forward` that they name.

    Where none names one they are given in their order. Raises BncheckError where only some do, or
    where they are more than `forward` takes: which entry is which input would be a guess.

    Of (x, y, more) the model takes what its `forward` has room for, and the next is the labels.
    """
    if not batch.kwargs:
        if len(batch.args) < 2:  # which every forward takes
            return batch
        room = _room(model)
        if len(batch.args) <= room:
            return batch
        return Batch(batch.args[:room], {}, batch.args[room])
    parameters = inspect.signature(model.forward).parameters
    by_name = all(map(str.isidentifier, batch.kwargs))
    takes_any = by_name and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if takes_any or set(batch.kwargs) <= set(parameters):
        return batch
    unknown = [name for name in batch.kwargs if name not in parameters]
    too_many = by_name and len(batch.inputs) > _room(model)
    if too_many or len(unknown) < len(batch.kwargs):
        raise BncheckError(
            f"batch {number} has {', '.join(map(repr, map(shortened, unknown)))}, which forward "
            "does not take",
            f"it takes {', '.join(parameters) or 'nothing'}",
        )
    return Batch((*batch.args, *batch.kwargs.values()), {}, batch.target)


def _room(model: nn.Module) -> int:
    """How many inputs `forward` takes by position; at least one."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of a compiled program
        return sys.maxsize
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return sys.maxsize
    return max(1, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))
