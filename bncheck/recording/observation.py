"""A recorded step of one model: what is written, and what is judged where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.layers.norm_layer import NormLayer, Origin, Setting
from bncheck.reading.checkpoint import as_number
from bncheck.reading.kinds import NormKind
from bncheck.reading.record_snapshot import BATCH_MOMENTS, SCHEMA
from bncheck.reading.training_state import Seen, TrainingState
from bncheck.recording.state import eps_of, norm_layers
from bncheck.series.snapshot import Snapshot, state_of

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array
    from bncheck.recording.modules import Watched

_STATE: Final = tuple(f.name for f in fields(TrainingState) if f.name != "seen")
_SEEN: Final = tuple(f.name for f in fields(Seen))


@dataclass(frozen=True)
class Observation:
    """`tensors` and `metadata` are written; most snapshots are not judged, so that the rest is
    made when it is asked for. `modules` is what a layer's tensors do not tell."""

    watched: Watched
    state: TrainingState
    path: Path
    tensors: Mapping[str, Array]
    modules: Mapping[str, Mapping[str, object]]

    @property
    def step(self) -> int:
        """The number of updates."""
        return self.state.step or 0

    @cached_property
    def layers(self) -> list[NormLayer]:
        """Its layers, as rules on one file see them."""
        return norm_layers(self.watched, self.tensors)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The same as rules on a series see it."""
        state = self.state
        layers = self.layers or self._outputs()
        states = {layer.name: state_of(layer) for layer in layers}
        label = f"step {state.step:,}"
        return Snapshot(self.path, label, state.step, state.epoch, states, training=state)

    def _outputs(self) -> list[NormLayer]:
        """Of a network without such layers, what its batches were like, as the files tell it."""
        mean, var = BATCH_MOMENTS
        unknown, found = Setting(None, Origin.ASSUMED), []
        for name, _ in self.watched.outputs:
            dot = f"{name}." if name else ""
            if dot + mean in self.tensors:
                eps = Setting(as_number(self.modules[name].get("eps")), Origin.MODEL)
                moments = self.tensors[dot + mean], self.tensors[dot + var]
                nothing = None, None, None
                found.append(NormLayer(name, NormKind.BATCH, *moments, *nothing, eps, unknown))
        return found

    @cached_property
    def counter(self) -> int | None:
        """The largest batch counter."""
        counters = (
            int(array.reshape(-1)[0])
            for name, array in self.tensors.items()
            if name.endswith("num_batches_tracked") and array.size
        )
        return max((counter for counter in counters if counter), default=None)

    @property
    def is_sound(self) -> bool:
        """Whether all numbers are finite, and none is negative that may not be: a quick look."""
        held = self.tensors
        names = (f"{n.name}.{n.var_name}" if n.name else n.var_name for n in self.watched.norms)
        variances = [_single(held[name]).reshape(-1) for name in names if name in held]
        whole = {id(base): base for base in map(_base, held.values())}
        return (
            all(0 <= eps_of(norm.module) < float("inf") for norm in self.watched.norms)
            and all(bool(np.isfinite(_single(base)).all()) for base in whole.values())
            and not (variances and np.concatenate(variances).min(initial=0.0) < 0)
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What stands beside the tensors."""
        told = {name: getattr(self.state, name) for name in _STATE}
        layers: dict[str, Any] = {name: dict(module) for name, module in self.modules.items()}
        for name, one in self.state.seen.items():
            known = ((key, getattr(one, key)) for key in _SEEN)
            layers.setdefault(name, {})["seen"] = {k: v for k, v in known if v is not None}
        return {"schema": SCHEMA, **told, "layers": layers}


def _base(array: Array) -> Any:
    """What it was copied in, together with others."""
    return array if array.base is None else array.base


def _single(array: Array) -> Any:
    """NumPy knows of 16 bits that are not its own only how to convert them."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array
