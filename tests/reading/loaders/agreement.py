"""What must hold between a report and what a loader found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from torch import Tensor

from bncheck.core.errors import BncheckError
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint
from bncheck.layers.norm_layer import NormLayer
from bncheck.reading.opening import open_checkpoint
from tests.zoo.states import numpy_of

Array = npt.NDArray[Any]

FEW = settings(
    max_examples=int(os.environ.get("BNCHECK_FUZZ", "60")),
    deadline=None,
    derandomize="BNCHECK_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

_PARTS = {"running_mean": "mean", "running_var": "var", "weight": "weight", "bias": "bias"}


def check(path: Path, load: Callable[[Path], Mapping[str, Tensor]], by_role: bool = False) -> str:
    """Compare every statistic, and say what became of the file: refused, unloadable or read.

    `by_role`: the loader tells what one layer takes in each role, and not what that is called.
    """
    try:
        checkpoint = open_checkpoint(path)
        report = inspect_checkpoint(checkpoint, InspectOptions())
    except BncheckError:
        return "refused"
    try:
        loaded = {name: numpy_of(tensor) for name, tensor in load(path).items()}
    except Exception:  # what the loader does not take deceives nobody
        return "unloadable"
    if by_role:
        agreeing = [layer for layer in report.layers if _agrees(layer, loaded)]
        assert agreeing or any(layer.missing for layer in report.layers)
        return "read"
    for layer in report.layers:
        for role, part in _PARTS.items():
            found, name = getattr(layer, part), layer.tensors.get(role)
            if found is not None and name in loaded:
                np.testing.assert_array_equal(found.reshape(-1), loaded[name].reshape(-1))
    negative = any(
        name.endswith(("running_var", "moving_variance")) and (array < 0).any()
        for name, array in loaded.items()
    )
    assert not (negative and report.summary.verdict == "healthy"), sorted(loaded)
    return "read"


def _agrees(layer: NormLayer, loaded: Mapping[str, Array]) -> bool:
    for role, part in _PARTS.items():
        found = getattr(layer, part)
        if role in loaded and (
            found is None or not np.array_equal(found.reshape(-1), loaded[role])
        ):
            return False
    return True
