"""State dicts in zip files of torch.save."""

from __future__ import annotations

import argparse
import pathlib
import random
import types
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.zoo.layout import BUILDERS, NAMES, Layout, layout, silent
from tests.zoo.states import arrays, net, prefixed, state, statistics, trained, zipped


@layout
def zip_bare(folder: Path) -> Layout:
    return zipped(folder, net().state_dict(), state(), prefix="")


@layout
def zip_plain_dict_pickle_5(folder: Path) -> Layout:
    path = folder / "checkpoint.pt"
    torch.save(state(), path, pickle_protocol=5)
    return Layout(path, "torch-zip", arrays(state()), silent())


@layout
def zip_without_checksums(folder: Path) -> Layout:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        return zipped(folder, state(), state())
    finally:
        torch.serialization.set_crc32_options(before)


@layout
def zip_big_endian(folder: Path) -> Layout:
    # All tensors are of four bytes, so that swapping needs no table of dtypes.
    path = folder / "checkpoint.pt"
    torch.save(statistics(), folder / "native.pt")
    with zipfile.ZipFile(folder / "native.pt") as native, zipfile.ZipFile(path, "w") as out:
        for name in native.namelist():
            data = native.read(name)
            if "/data/" in name:
                data = np.frombuffer(data, "<u4").byteswap().tobytes()
            out.writestr(name, b"big" if name.endswith("/byteorder") else data)
    expected = statistics()
    loaded = torch.load(path)  # torch itself vouches for the file
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    return Layout(path, "torch-zip", arrays(expected), silent(["bn"]))


def _under_key(folder: Path, key: str) -> Layout:
    model, optimizer = trained()
    content = {"epoch": 7, "best_acc": 0.93, "optimizer": optimizer, key: model.state_dict()}
    return zipped(folder, content, dict(model.state_dict()), key=key)


_KEYS = ("state_dict", "model", "model_state_dict", "net", "ema", "module", "params_ema", "weights")

for _key in _KEYS:
    BUILDERS[f"zip-key-{_key}"] = partial(_under_key, key=_key)


@layout
def zip_model_and_ema(folder: Path) -> Layout:
    content = {"ema": state(1), "model": state(0), "step": torch.tensor(3)}
    return zipped(folder, content, state(0), key="model")


class Hyper:
    """A class that only the training script knows."""

    def __init__(self) -> None:
        self.path, self.depth = pathlib.PurePosixPath("/data"), 3


@layout
def lightning(folder: Path) -> Layout:
    model, optimizer = trained()
    expected = prefixed("model.", model.state_dict())
    content = {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict(expected),
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 4}}, "state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(0.25)}},
        "optimizer_states": [optimizer],
        "lr_schedulers": [],
        "hyper_parameters": {"args": argparse.Namespace(lr=0.1, model=Hyper()), "own": Hyper()},
    }
    layers = silent(f"model.{name}" for name in NAMES)
    return zipped(folder, content, expected, key="state_dict", prefix="model.", layers=layers)


def _with_prefix(folder: Path, prefix: str) -> Layout:
    expected = prefixed(prefix, state())
    layers = silent(prefix + name for name in NAMES)
    return zipped(folder, expected, expected, prefix=prefix, layers=layers)


for _prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "backbone."):
    BUILDERS[f"zip-prefix-{_prefix}"] = partial(_with_prefix, prefix=_prefix)


@layout
def averaged_model(folder: Path) -> Layout:
    expected = dict(torch.optim.swa_utils.AveragedModel(net()).state_dict())
    layers = silent(f"module.{name}" for name in NAMES)
    return zipped(folder, expected, expected, prefix="module.", layers=layers)


@layout
def training_session(folder: Path) -> Layout:
    """What scripts put beside the weights; torch.load(weights_only=True) refuses half of it."""
    content = {
        "model": state(),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/runs"), betas=(0.9, 0.99)),
        "loss": np.float64(0.5),
        "epochs": np.int64(4),
        "rng": {
            "torch": torch.get_rng_state(),
            "numpy": np.random.default_rng(0).bit_generator.state,
            "legacy": np.random.RandomState(0).get_state(),
            "python": random.Random(0).getstate(),
        },
        "seen": {1, 2, 3},
        "frozen": frozenset({"a"}),
        "range": range(3),
        "complex": 1j,
        "when": types.SimpleNamespace(year=2026),
        "blob": bytearray(b"x" * 5000),
        "parts": [b"y" * 5000, (1, -1, 2**70, -(2**70)), None, True, 1.5],
    }
    return zipped(folder, content, state(), key="model")
