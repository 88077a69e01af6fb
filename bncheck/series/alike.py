"""Snapshots of one record, read one after another: the layers are found in the first of a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.layers.norm_layer import Assumptions, NormLayer
from bncheck.reading.alike import Alike, Form, places, read_alike
from bncheck.series.snapshot import Snapshot, opened_snapshot, state_of

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: The vectors of a layer by their roles, and how a NormLayer calls them.
_VECTORS: Final = {
    "running_mean": "mean", "running_var": "var", "weight": "weight", "bias": "bias",
}  # fmt: skip
_COUNTER: Final = "num_batches_tracked"

_Place = tuple[Any, int, int]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Files of one form: a snapshot of them, its layers, and where each layer's numbers are."""

    form: Form
    snapshot: Snapshot
    layers: Sequence[tuple[str, NormLayer, Mapping[str, _Place]]]

    def filled(self, path: Path, file: Alike) -> Snapshot:
        """The snapshot that a file like these holds."""
        states = {
            name: state_of(_filled(layer, held, file.data)) for name, layer, held in self.layers
        }
        training = file.training
        return replace(
            self.snapshot, path=path, label=path.stem, step=training.step, epoch=training.epoch,
            states=states, training=training,
        )  # fmt: skip


@dataclass
class RecordReader:
    """Reads snapshots of a record: `key` and `given` as `read_snapshot` has them."""

    key: str | None
    given: Assumptions
    _kind: _Kind | None = field(default=None, init=False)

    def read(self, path: Path) -> Snapshot:
        """The same as `read_snapshot`, sooner where the file is like the one before."""
        try:
            known = None if self._kind is None else read_alike(path, self._kind.form)
        except BncheckError as error:
            raise error.about(str(path)) from None
        if known is not None and self._kind is not None:
            return self._kind.filled(path, known)
        snapshot, layers = opened_snapshot(path, self.key, self.given)
        self._kind = _kind_of(path, snapshot, layers) if self.key is None else None
        return snapshot


def _kind_of(path: Path, snapshot: Snapshot, layers: Mapping[str, NormLayer]) -> _Kind | None:
    """None where a layer is not its vectors as they are stored."""
    file = read_alike(path, None)
    if file is None or snapshot.training is None:
        return None
    where, found = places(file.form), []
    for name, layer in layers.items():
        dot = f"{layer.name}." if layer.name else ""
        names = {role: dot + role for role in (*_VECTORS, _COUNTER)} | dict(layer.tensors)
        held = {role: where[tensor] for role, tensor in names.items() if tensor in where}
        if not _same(layer, _filled(layer, held, file.data)):
            return None
        found.append((name, layer, held))
    return _Kind(file.form, snapshot, found)


def _filled(layer: NormLayer, held: Mapping[str, _Place], data: bytes) -> NormLayer:
    arrays: dict[str, Array] = {
        role: np.frombuffer(data, dtype, number, start)
        for role, (dtype, start, number) in held.items()
    }
    counter = arrays.get(_COUNTER)
    vectors: dict[str, Any] = {own: arrays.get(role) for role, own in _VECTORS.items()}
    return replace(
        layer, batches=None if counter is None or not counter.size else float(counter[0]), **vectors
    )


def _same(one: NormLayer, other: NormLayer) -> bool:
    """Whether two layers hold the same numbers, NaN included."""
    pairs = [(getattr(one, own), getattr(other, own)) for own in _VECTORS.values()]
    alike = (
        first is second
        if first is None or second is None
        else first.dtype == second.dtype and first.tobytes() == second.tobytes()
        for first, second in pairs
    )
    return one.batches == other.batches and all(alike)
