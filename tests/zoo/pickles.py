"""Plain pickles, of tensors, arrays and modules."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np

from tests.zoo.layout import BUILDERS, NET_SETTINGS, Array, Layout, layout, silent
from tests.zoo.states import arrays, net, state


def _plain(folder: Path, content: object, protocol: int) -> Path:
    path = folder / "weights.pkl"
    with path.open("wb") as out:
        pickle.dump(content, out, protocol=protocol)
    return path


def _plain_torch(folder: Path, protocol: int) -> Layout:
    path = _plain(folder, {"model": state()}, protocol)
    return Layout(path, "pickle", arrays(state()), silent(), key="model")


def _plain_numpy(folder: Path, protocol: int) -> Layout:
    """Detectron2's: arrays, here in both memory orders and of both byte orders."""
    expected: dict[str, Array] = {
        **arrays(state()),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "swapped": np.arange(4, dtype=">f4"),
        "scalar": np.array(3, dtype=np.int64),
        "empty": np.empty((0, 3), np.float32),
        "long": np.arange(3000, dtype=np.float64),
    }
    path = _plain(folder, {"model": expected, "__author__": "zoo"}, protocol)
    native = {k: v.astype(v.dtype.newbyteorder("=")) for k, v in expected.items()}
    return Layout(path, "pickle", native, silent(), key="model")


for _protocol in (2, 3, 4, 5):
    BUILDERS[f"pickle-torch-{_protocol}"] = partial(_plain_torch, protocol=_protocol)
    BUILDERS[f"pickle-numpy-{_protocol}"] = partial(_plain_numpy, protocol=_protocol)


@layout
def pickle_module(folder: Path) -> Layout:
    path = _plain(folder, net(), 4)
    return Layout(path, "pickle", arrays(state()), NET_SETTINGS)
