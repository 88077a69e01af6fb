"""What loggers are told of a recorded step, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array
    from bncheck.recording.observation import Observation
    from bncheck.recording.observed import Observed

Scalars: TypeAlias = dict[str, float]


def scalars_of(
    found: Mapping[str, Observation], observed: Mapping[str, Observed]
) -> tuple[Scalars, Mapping[str, Array]]:
    """Scalars and arrays of every series; ask before the step is added to what is live."""
    scalars: Scalars = {}
    arrays: dict[str, Array] = {}
    for series, one in found.items():
        start = f"{series}/" if series else ""
        for layer, told in one.state.seen.items():
            for name in ("w2", "mean_shift", "log_variance_ratio", "largest"):
                value = getattr(told, name)
                if value is not None:
                    scalars[f"{start}{name}/{layer}"] = value
        for layer, moved in observed[series].live.moved(one).items():
            if np.isfinite(moved):
                scalars[f"{start}moved/{layer}"] = moved
        arrays |= {f"{start}{name}": a for name, a in one.tensors.items() if a.ndim}
    return scalars, arrays
