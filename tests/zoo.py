"""Every layout in which people keep BatchNorm statistics, each built by a few lines of code.

`BUILDERS` maps an id to a function that writes the layout into an empty folder and returns what a
reader must find there. The expected numbers come from the tensors in memory, never from a reader.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import pathlib
import pickle
import pickletools
import random
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_saver as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """What the file itself says about a layer; None where it is silent.

    `knows_momentum` tells a silent file from one that says None (a cumulative average).
    """

    eps: float | None = None
    momentum: float | None = None
    training: bool | None = None
    knows_momentum: bool = False


SILENT = Settings()


@dataclass(frozen=True)
class Layout:
    """What was written, and what a reader must find in it."""

    path: Path
    container: str
    tensors: Mapping[str, Array]
    layers: Mapping[str, Settings]
    key: str = ""
    prefix: str | None = None  # None: not the subject of this layout
    kinds: Mapping[str, str] = field(default_factory=dict)


Build = Callable[[Path], Layout]
BUILDERS: dict[str, Build] = {}


def layout(build: Build) -> Build:
    BUILDERS[build.__name__.replace("_", "-")] = build
    return build


# --- what goes into the files -------------------------------------------------------------------

_SMALL_FLOATS = {
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
}


def numpy_of(tensor: Tensor) -> Array:
    """The same bits as a NumPy array; `Tensor.numpy` has no bfloat16 and no float8."""
    tensor = tensor.detach()
    if tensor.dtype not in _SMALL_FLOATS:
        return np.array(tensor.numpy())
    bits = tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.uint8)
    return np.array(bits.numpy().view(_SMALL_FLOATS[tensor.dtype]))


def arrays(state: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: numpy_of(tensor) for name, tensor in state.items()}


class Net(nn.Module):
    """Two BatchNorms with different settings, one of them a level deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4, eps=1e-3, momentum=0.03)
        self.down = nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.bn1(self.conv(x))))
        out: Tensor = self.head(y.mean((2, 3)))
        return out


NAMES = ("bn1", "down.1")
NET_SETTINGS = {
    "bn1": Settings(1e-3, 0.03, False, True),
    "down.1": Settings(1e-5, 0.1, False, True),
}


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Statistics and weights that no default could be mistaken for."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.25)
            else:
                tensor.fill_(1000 + seed + len(name))


def net(seed: int = 0) -> Net:
    model = Net().eval()
    randomize(model, seed)
    return model


def state(seed: int = 0) -> State:
    return dict(net(seed).state_dict())


def silent(names: Iterable[str] = NAMES) -> dict[str, Settings]:
    return dict.fromkeys(names, SILENT)


def prefixed(prefix: str, of: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in of.items()}


def _zip(folder: Path, content: object, expected: State, **more: Any) -> Layout:
    """A file of torch.save with a state dict in it whose layers the file knows nothing of."""
    path = folder / "checkpoint.pt"
    torch.save(content, path)
    more.setdefault("layers", silent())
    return Layout(path, "torch-zip", arrays(expected), **more)


def statistics(seed: int = 0, channels: int = 4) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        "bn.weight": torch.rand(channels, generator=generator),
        "bn.bias": torch.rand(channels, generator=generator),
        "bn.running_mean": torch.rand(channels, generator=generator),
        "bn.running_var": torch.rand(channels, generator=generator) + 0.5,
    }


# --- state dicts in files of torch.save ----------------------------------------------------------


@layout
def zip_bare(folder: Path) -> Layout:
    return _zip(folder, net().state_dict(), state(), prefix="")


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
        return _zip(folder, state(), state())
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
    model, optimizer = _trained()
    content = {"epoch": 7, "best_acc": 0.93, "optimizer": optimizer, key: model.state_dict()}
    return _zip(folder, content, dict(model.state_dict()), key=key)


def _trained() -> tuple[Net, dict[str, Any]]:
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer.state_dict()


_KEYS = ("state_dict", "model", "model_state_dict", "net", "ema", "module", "params_ema", "weights")
for _key in _KEYS:
    BUILDERS[f"zip-key-{_key}"] = partial(_under_key, key=_key)


@layout
def zip_model_and_ema(folder: Path) -> Layout:
    content = {"ema": state(1), "model": state(0), "step": torch.tensor(3)}
    return _zip(folder, content, state(0), key="model")


class Hyper:
    """A class that only the training script knows."""

    def __init__(self) -> None:
        self.path, self.depth = pathlib.PurePosixPath("/data"), 3


@layout
def lightning(folder: Path) -> Layout:
    model, optimizer = _trained()
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
    return _zip(folder, content, expected, key="state_dict", prefix="model.", layers=layers)


def _with_prefix(folder: Path, prefix: str) -> Layout:
    expected = prefixed(prefix, state())
    layers = silent(prefix + name for name in NAMES)
    return _zip(folder, expected, expected, prefix=prefix, layers=layers)


for _prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "backbone."):
    BUILDERS[f"zip-prefix-{_prefix}"] = partial(_with_prefix, prefix=_prefix)


@layout
def averaged_model(folder: Path) -> Layout:
    expected = dict(torch.optim.swa_utils.AveragedModel(net()).state_dict())
    layers = silent(f"module.{name}" for name in NAMES)
    return _zip(folder, expected, expected, prefix="module.", layers=layers)


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
    return _zip(folder, content, state(), key="model")


def _save_legacy(content: object, path: Path, **more: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False, **more)


@layout
def legacy_bare(folder: Path) -> Layout:
    path = folder / "checkpoint.pth"
    _save_legacy(net().state_dict(), path)
    return Layout(path, "torch-legacy", arrays(state()), silent())


@layout
def legacy_below_key(folder: Path) -> Layout:
    model, optimizer = _trained()
    path = folder / "checkpoint.pth.tar"
    expected = prefixed("module.", model.state_dict())
    _save_legacy({"state_dict": expected, "optimizer": optimizer, "arch": Hyper()}, path)
    layers = silent(f"module.{name}" for name in NAMES)
    return Layout(path, "torch-legacy", arrays(expected), layers, key="state_dict")


@layout
def legacy_shared_storage(folder: Path) -> Layout:
    path = folder / "checkpoint.pth"
    expected = _views()
    _save_legacy(expected, path)
    return Layout(path, "torch-legacy", arrays(expected), silent(["bn"]))


@layout
def legacy_whole_module(folder: Path) -> Layout:
    path = folder / "module.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Couldn't retrieve source code"
        _save_legacy(net(), path)
    return Layout(path, "torch-legacy", arrays(state()), NET_SETTINGS)


@layout
def legacy_from_big_endian_machine(folder: Path) -> Layout:
    # torch writes legacy numbers little-endian on every machine and ignores this flag on reading.
    path = folder / "checkpoint.pth"
    _save_legacy(state(), folder / "native.pth")
    data = (folder / "native.pth").read_bytes()
    flag = data.index(b"little_endian") + len(b"little_endian")
    place = data.index(b"\x88", flag)
    path.write_bytes(data[:place] + b"\x89" + data[place + 1 :])
    loaded = torch.load(path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state().items())
    return Layout(path, "torch-legacy", arrays(state()), silent())


class _PairPickler(pickle.Pickler):
    """Pickles an OrderedDict as Python 2 did: a call with a list of pairs."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, OrderedDict):
            return OrderedDict, ([[key, item] for key, item in value.items()],)
        return NotImplemented


def end_of_pickle(data: bytes) -> int:
    # The machine behind genops stops at STOP, so its last position is the end.
    *_, (_, _, last) = pickletools.genops(data)
    assert last is not None
    return last + 1


def python2_strings(data: bytes) -> bytes:
    """The same pickle with the strings that Python 2's pickle wrote: SHORT_BINSTRING."""
    out, ends = [], [*[at for _, _, at in pickletools.genops(data)][1:], len(data)]
    for (code, value, at), end in zip(pickletools.genops(data), ends, strict=True):
        text = value.encode() if code.name == "BINUNICODE" and isinstance(value, str) else None
        assert text is None or len(text) < 256
        out.append(data[at:end] if text is None else b"U" + bytes([len(text)]) + text)
    return b"".join(out).replace(b"cbuiltins\n", b"c__builtin__\n")


@layout
def legacy_python_2(folder: Path) -> Layout:
    path = folder / "checkpoint.pth"
    pairs = types.SimpleNamespace(Pickler=_PairPickler, dump=pickle.dump, __name__="pickle")
    _save_legacy(OrderedDict(state()), folder / "python3.pth", pickle_module=pairs)
    data, out = (folder / "python3.pth").read_bytes(), b""
    for _ in range(5):  # magic number, protocol, system, object, storage keys
        end = end_of_pickle(data)
        out, data = out + python2_strings(data[:end]), data[end:]
    path.write_bytes(out + data)
    return Layout(path, "torch-legacy", arrays(state()), silent())


# --- tensors of every kind ------------------------------------------------------------------------


def _of_dtype(folder: Path, dtype: torch.dtype) -> Layout:
    expected = {name: tensor.to(dtype) for name, tensor in statistics().items()}
    expected["bn.num_batches_tracked"] = torch.tensor(7)
    return _zip(folder, expected, expected, layers=silent(["bn"]))


for _dtype in (torch.float16, torch.bfloat16, torch.float64):
    BUILDERS[f"zip-{str(_dtype).removeprefix('torch.')}"] = partial(_of_dtype, dtype=_dtype)


#: torch's dtypes that NumPy or ml_dtypes has, too, and that safetensors knows.
_DTYPES = tuple(
    getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"),
    )
)


def _of_every_dtype() -> State:
    return {f"buffer.{dtype}".replace("torch.", ""): torch.arange(4).to(dtype) for dtype in _DTYPES}


@layout
def odd_dtypes(folder: Path) -> Layout:
    expected = _of_every_dtype() | statistics()
    expected["complex128"] = torch.arange(4).to(torch.complex128)
    return _zip(folder, expected, expected, layers=silent(["bn"]))


def _views() -> State:
    """Views of one storage: offsets, steps, overlaps, a transposed one, an expanded one."""
    base = torch.arange(64, dtype=torch.float32) + 1
    return {
        "conv.weight": base.view(8, 8).t(),
        "permuted": base.view(2, 4, 8).permute(2, 0, 1),
        "channels_last": base.view(1, 2, 4, 8).contiguous(memory_format=torch.channels_last),
        "bn.weight": base[3:7],
        "bn.bias": base[8:24:4],
        "bn.running_mean": base.view(8, 8)[1:5, 2],
        "bn.running_var": torch.tensor(0.5).expand(4),
        "expanded": torch.arange(3.0).view(3, 1).expand(3, 5),
        "tied": base,
        "scalar": base[63],
    }


@layout
def views_of_one_storage(folder: Path) -> Layout:
    expected = _views()
    return _zip(folder, expected, expected, layers=silent(["bn"]))


@layout
def tied_and_empty(folder: Path) -> Layout:
    tied = torch.rand(4)
    expected = {
        "a.running_mean": tied,
        "a.running_var": tied,
        "b.running_mean": tied,
        "b.running_var": nn.Parameter(torch.rand(4)),
        "empty": torch.empty(0),
        "empty_matrix": torch.empty(0, 7),
        "zero_dim": torch.tensor(2.5),
    }
    return _zip(folder, expected, expected, layers=silent("ab"))


class TaggedParameter(nn.Parameter):
    """Pickled through torch._tensor._rebuild_from_type_v2, with a state of its own."""


class TaggedTensor(Tensor):
    """The same for a buffer."""


@layout
def parameter_subclasses(folder: Path) -> Layout:
    expected = dict(statistics())
    tagged = TaggedParameter(expected["bn.weight"])
    tagged.note = "mine"  # type: ignore[attr-defined]
    stateful = nn.Parameter(expected["bn.bias"])
    stateful.origin = "here"  # type: ignore[attr-defined]
    content = {
        **expected,
        "bn.weight": tagged,
        "bn.bias": stateful,
        "bn.running_mean": expected["bn.running_mean"].as_subclass(TaggedTensor),
    }
    return _zip(folder, content, expected, layers=silent(["bn"]))


@layout
def quantized_beside(folder: Path) -> Layout:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.qint8)
    expected = {**statistics(), "conv.weight": quantized}
    path = folder / "checkpoint.pt"
    torch.save(expected, path)
    bits = {**arrays(statistics()), "conv.weight": numpy_of(quantized.int_repr())}
    return Layout(path, "torch-zip", bits, silent(["bn"]))


# --- layers of every kind in state dicts ---------------------------------------------------------


@layout
def norms_of_every_kind_as_state_dict(folder: Path) -> Layout:
    """Without a module only statistics tell: GroupNorm and LayerNorm must not be guessed."""
    expected = dict(_norms().state_dict())
    tracked = silent(["plain", "bare", "sync", "instance", "frozen"])
    return _zip(folder, expected, expected, layers=tracked)


class FrozenBatchNorm2d(nn.Module):
    """As in torchvision and detectron2: four buffers, no counter, no momentum."""

    def __init__(self, channels: int, eps: float = 2e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


def _norms() -> nn.ModuleDict:
    norms = nn.ModuleDict(
        {
            "plain": nn.BatchNorm1d(3, momentum=None),
            "bare": nn.BatchNorm3d(3, affine=False, eps=0.0),
            "sync": nn.SyncBatchNorm(3, eps=1e-4),
            "instance": nn.InstanceNorm2d(3, track_running_stats=True, affine=True),
            "frozen": FrozenBatchNorm2d(3),
            "untracked": nn.BatchNorm2d(3, track_running_stats=False),
            "lost": nn.InstanceNorm2d(3),
            "group": nn.GroupNorm(1, 3),
            "layer": nn.LayerNorm(3),
        }
    )
    randomize(norms)
    norms["plain"].eval()
    return norms


@layout
def norms_of_every_kind_as_module(folder: Path) -> Layout:
    path = folder / "module.pt"
    norms = _norms()
    torch.save(norms, path)
    settings = {
        "plain": Settings(1e-5, None, False, True),
        "bare": Settings(0.0, 0.1, True, True),
        "sync": Settings(1e-4, 0.1, True, True),
        "instance": Settings(1e-5, 0.1, True, True),
        "frozen": Settings(2e-5, None, True, False),
        "untracked": Settings(1e-5, 0.1, True, True),
        "lost": Settings(1e-5, 0.1, True, True),
        "group": Settings(1e-5, None, True, False),
        "layer": Settings(1e-5, None, True, False),
    }
    kinds = {
        "plain": "BatchNorm",
        "sync": "SyncBatchNorm",
        "instance": "InstanceNorm",
        "frozen": "FrozenBatchNorm",
        "group": "GroupNorm",
        "layer": "LayerNorm",
    }
    return Layout(path, "torch-zip", arrays(norms.state_dict()), settings, kinds=kinds)


@layout
def no_counters(folder: Path) -> Layout:
    expected = {k: v for k, v in state().items() if not k.endswith("num_batches_tracked")}
    return _zip(folder, expected, expected)


@layout
def batchnorm_at_the_root(folder: Path) -> Layout:
    norm = nn.BatchNorm2d(4)
    randomize(norm)
    return _zip(folder, norm.state_dict(), dict(norm.state_dict()), layers=silent([""]), prefix="")


@layout
def batchnorm_is_the_module(folder: Path) -> Layout:
    path = folder / "module.pt"
    norm = nn.BatchNorm2d(4, eps=1e-3)
    randomize(norm)
    torch.save(norm, path)
    settings = {"": Settings(1e-3, 0.1, True, True)}
    return Layout(path, "torch-zip", arrays(norm.state_dict()), settings)


@layout
def tensorflow_names(folder: Path) -> Layout:
    expected = {
        name: torch.rand(4)
        for name in ("bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance")
    }
    return _zip(folder, expected, expected, layers=silent(["bn"]))


@layout
def no_norms(folder: Path) -> Layout:
    expected = dict(nn.Linear(2, 3).state_dict())
    return _zip(folder, expected, expected, layers={})


# --- whole modules --------------------------------------------------------------------------------


class Holder(nn.Module):
    """Buffers that a state dict leaves out, tied parameters, and a child that is None."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("grid", torch.rand(3), persistent=False)
        self.register_buffer("absent", None)
        self.register_module("later", None)
        self.twin = nn.Linear(5, 2)
        self.twin.weight = self.net.head.weight


def _module(folder: Path, model: nn.Module, prefix: str = "") -> Layout:
    path = folder / "module.pt"
    torch.save(model, path)
    settings = {prefix + name: value for name, value in NET_SETTINGS.items()}
    return Layout(path, "torch-zip", arrays(model.state_dict()), settings)


@layout
def module_own_class(folder: Path) -> Layout:
    return _module(folder, net())


@layout
def module_with_oddities(folder: Path) -> Layout:
    return _module(folder, Holder(), "net.")


@layout
def module_data_parallel(folder: Path) -> Layout:
    return _module(folder, nn.DataParallel(net()).eval(), "module.")


@layout
def module_sequential(folder: Path) -> Layout:
    path = folder / "module.pt"
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, momentum=0.2), nn.ReLU())
    randomize(model)
    torch.save(model, path)
    settings = {"1": Settings(1e-5, 0.2, True, True)}
    return Layout(path, "torch-zip", arrays(model.state_dict()), settings)


@layout
def module_fx_graph(folder: Path) -> Layout:
    # torch.fx cannot pickle the graph of a forward whose annotations are text, as in this module.
    plain = nn.Sequential(OrderedDict(list(net().named_children())[:3]))
    return _module(folder, torch.fx.symbolic_trace(plain).eval())


@layout
def module_used_twice(folder: Path) -> Layout:
    path = folder / "module.pt"
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.ReLU(), norm)
    randomize(model)
    torch.save(model, path)
    one = Settings(1e-5, 0.1, True, True)
    return Layout(path, "torch-zip", arrays(model.state_dict()), {"0": one, "2": one})


@layout
def yolo_like(folder: Path) -> Layout:
    path = folder / "best.pt"
    model = copy.deepcopy(net()).half()
    content = {
        "epoch": -1,
        "best_fitness": np.float64(0.5),
        "model": model,
        "ema": None,
        "optimizer": None,
        "train_args": {"imgsz": 640, "path": pathlib.PurePosixPath("/data")},
        "date": "2026-01-01",
    }
    torch.save(content, path)
    return Layout(path, "torch-zip", arrays(model.state_dict()), NET_SETTINGS, key="model")


# --- plain pickles --------------------------------------------------------------------------------


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


# --- TorchScript and exported programs -----------------------------------------------------------


def _quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its files live on
        return make()


_trace: Callable[..., Any] = torch.jit.trace
_load: Callable[..., Any] = torch.jit.load


@layout
def torchscript_scripted(folder: Path) -> Layout:
    path = folder / "model.pt"
    _quietly(lambda: torch.jit.save(torch.jit.script(net()), path))
    return Layout(path, "torchscript", arrays(state()), NET_SETTINGS)


@layout
def torchscript_traced(folder: Path) -> Layout:
    path = folder / "model.pt"
    example = torch.rand(1, 3, 5, 5)
    _quietly(lambda: torch.jit.save(_trace(net(), example), path))
    return Layout(path, "torchscript", arrays(state()), NET_SETTINGS)


@layout
def torchscript_traced_in_training_mode(folder: Path) -> Layout:
    path = folder / "model.pt"
    model, example = net().train(), torch.rand(2, 3, 5, 5)
    _quietly(lambda: torch.jit.save(_trace(model, example, check_trace=False), path))
    settings = {k: Settings(v.eps, v.momentum, True, True) for k, v in NET_SETTINGS.items()}
    # Tracing ran the model once, so the statistics are those of the model afterwards.
    return Layout(path, "torchscript", arrays(model.state_dict()), settings)


@layout
def torchscript_frozen(folder: Path) -> Layout:
    """Freezing inlines the modules: what is left are constants, and calls that use them."""
    path = folder / "model.pt"

    def make() -> dict[str, Tensor]:
        frozen = torch.jit.freeze(torch.jit.script(net()), optimize_numerics=False)
        torch.jit.save(frozen, path)
        constants: dict[str, Tensor] = _load(path).code_with_constants[1].const_mapping
        return constants

    expected = {f"CONSTANTS.{name}": numpy_of(value) for name, value in _quietly(make).items()}
    settings = {"batch_norm_0": NET_SETTINGS["bn1"], "batch_norm_1": NET_SETTINGS["down.1"]}
    return Layout(path, "torchscript", expected, settings)


class Shared(nn.Module):
    """Tied weights, a norm without statistics, and one with tracked instance statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.second.weight = self.first.weight
        self.bn = nn.BatchNorm2d(3, eps=1e-3)
        self.untracked = nn.BatchNorm2d(3, track_running_stats=False)
        self.group = nn.GroupNorm(1, 3)
        self.register_buffer("table", torch.rand(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.first(x)) + self.untracked(self.second(x))
        out: Tensor = self.group(y)
        return out


def _export(model: nn.Module, path: Path, channels: int = 3) -> None:
    example = (torch.rand(2, channels, 5, 5),)
    _quietly(lambda: torch.export.save(torch.export.export(model, example), path))


@layout
def exported_program(folder: Path) -> Layout:
    path = folder / "model.pt2"
    _export(net(), path)
    return Layout(path, "exported-program", arrays(state()), NET_SETTINGS)


@layout
def exported_program_shared(folder: Path) -> Layout:
    path = folder / "model.pt2"
    model = Shared().eval()
    randomize(model)
    _export(model, path)
    settings = {
        "bn": Settings(1e-3, 0.1, False, True),
        # Its flag says only that there are no running statistics to use.
        "untracked": Settings(1e-5, 0.1, None, True),
        "group": Settings(1e-5, None, None, False),
    }
    return Layout(path, "exported-program", arrays(model.state_dict()), settings)


@layout
def exported_program_training(folder: Path) -> Layout:
    path = folder / "model.pt2"
    _export(net().train(), path)
    settings = {k: Settings(v.eps, v.momentum, True, True) for k, v in NET_SETTINGS.items()}
    return Layout(path, "exported-program", arrays(state()), settings)


@layout
def exported_program_decomposed(folder: Path) -> Layout:
    path = folder / "model.pt2"

    def make() -> None:
        program = torch.export.export(net(), (torch.rand(2, 3, 5, 5),)).run_decompositions()
        torch.export.save(program, path)

    _quietly(make)
    return Layout(path, "exported-program", arrays(state()), NET_SETTINGS)


# --- safetensors, sharded files and folders -------------------------------------------------------


@layout
def safetensors_file(folder: Path) -> Layout:
    path = folder / "model.safetensors"
    safetensors.torch.save_file(state(), path, metadata={"format": "pt"})
    return Layout(path, "safetensors", arrays(state()), silent())


@layout
def safetensors_dtypes(folder: Path) -> Layout:
    path = folder / "model.safetensors"
    expected = _of_every_dtype()
    expected |= {k: v.bfloat16() for k, v in statistics().items()}
    expected |= {"zero_dim": torch.tensor(1.5), "empty": torch.empty(0, 3)}
    safetensors.torch.save_file(expected, path)
    return Layout(path, "safetensors", arrays(expected), silent(["bn"]))


def _halves() -> tuple[State, State]:
    """A net over two shards, the statistics of one layer apart from its weights."""
    whole = state()
    first = {k: v for k, v in whole.items() if k.startswith("conv") or k == "bn1.weight"}
    return first, {k: v for k, v in whole.items() if k not in first}


def _shards(folder: Path, stem: str, ending: str) -> Path:
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(_halves(), 1):
        name = f"{stem}-0000{number}-of-00002.{ending}"
        if ending == "safetensors":
            safetensors.torch.save_file(shard, folder / name)
        else:
            torch.save(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return index


def _sharded(folder: Path, stem: str, ending: str, container: str, whole_folder: bool) -> Layout:
    index = _shards(folder, stem, ending)
    path = folder if whole_folder else index
    return Layout(path, container, arrays(state()), silent())


for _id, _arguments in {
    "sharded-safetensors": ("model", "safetensors", "safetensors-sharded", False),
    "sharded-bin": ("pytorch_model", "bin", "torch-sharded", False),
    "hf-sharded-safetensors": ("model", "safetensors", "hf-directory", True),
    "hf-sharded-bin": ("pytorch_model", "bin", "hf-directory", True),
    "hf-diffusers": ("diffusion_pytorch_model", "safetensors", "hf-directory", True),
}.items():
    _stem, _ending, _container, _whole = _arguments
    BUILDERS[_id] = partial(
        _sharded, stem=_stem, ending=_ending, container=_container, whole_folder=_whole
    )


@layout
def hf_safetensors(folder: Path) -> Layout:
    (folder / "config.json").write_text("{}")
    safetensors.torch.save_file(state(), folder / "model.safetensors")
    return Layout(folder, "hf-directory", arrays(state()), silent())


@layout
def hf_bin(folder: Path) -> Layout:
    (folder / "config.json").write_text("{}")
    torch.save(state(), folder / "pytorch_model.bin")
    return Layout(folder, "hf-directory", arrays(state()), silent())


@layout
def hf_cache(folder: Path) -> Layout:
    """The hub's cache: every file is a link into a folder of blobs."""
    (folder / "blobs").mkdir()
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(state(), folder / "blobs" / "cafe")
    (snapshot / "model.safetensors").symlink_to("../../blobs/cafe")
    return Layout(snapshot, "hf-directory", arrays(state()), silent())


# --- distributed checkpoints ----------------------------------------------------------------------


@layout
def distributed(folder: Path) -> Layout:
    model, optimizer = _trained()
    content = {"model": model.state_dict(), "optimizer": optimizer, "epoch": 4}
    path = folder / "step-100"
    _quietly(lambda: dcp.save(content, checkpoint_id=path, no_dist=True))
    return Layout(path, "distributed", arrays(model.state_dict()), silent(), key="model")


@layout
def distributed_flat(folder: Path) -> Layout:
    path = folder / "step-100"
    _quietly(lambda: dcp.save(state(), checkpoint_id=path, no_dist=True))
    return Layout(path, "distributed", arrays(state()), silent())


def write_chunks(folder: Path, tensors: Mapping[str, tuple[Tensor, list[slice]]]) -> None:
    """A distributed checkpoint as several ranks leave it: each tensor cut along its first axis."""
    metadata, places = {}, {}
    for rank in range(2):
        (folder / f"__{rank}_0.distcp").write_bytes(b"")
    for name, (tensor, cuts) in tensors.items():
        chunks = []
        for rank, cut in enumerate(cuts):
            piece = tensor[cut].clone()
            offsets = torch.Size([cut.start, *[0] * (tensor.dim() - 1)])
            buffer = io.BytesIO()
            torch.save(piece, buffer)
            file = folder / f"__{rank % 2}_0.distcp"
            start, length = file.stat().st_size, len(buffer.getvalue())
            with file.open("ab") as out:
                out.write(buffer.getvalue())
            chunks.append(ChunkStorageMetadata(offsets, piece.shape))
            places[MetadataIndex(name, offsets)] = _StorageInfo(file.name, start, length)
        properties = TensorProperties(dtype=tensor.dtype)
        metadata[name] = TensorStorageMetadata(properties, tensor.shape, chunks)
    whole = Metadata(dict(metadata), storage_data=places)
    (folder / ".metadata").write_bytes(pickle.dumps(whole, protocol=4))


@layout
def distributed_in_chunks(folder: Path) -> Layout:
    expected = {**statistics(channels=8), "conv.weight": torch.rand(8, 3)}
    halves = [slice(0, 5), slice(5, 8)]
    write_chunks(folder, {name: (tensor, halves) for name, tensor in expected.items()})
    return Layout(folder, "distributed", arrays(expected), silent(["bn"]))


# --- ONNX -----------------------------------------------------------------------------------------

ONNX_ROLES = ("weight", "bias", "running_mean", "running_var")


def onnx_values(name: str, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"{name}.{role}": rng.random(3, np.float32) + np.float32(0.5) for role in ONNX_ROLES}


def onnx_norm(name: str, x: str, y: str, **attributes: Any) -> onnx.NodeProto:
    inputs = [x, *(f"{name}.{role}" for role in ONNX_ROLES)]
    return helper.make_node("BatchNormalization", inputs, [y], **attributes)


def onnx_model(
    nodes: list[onnx.NodeProto],
    values: Mapping[str, Array],
    opset: int = 17,
    more_inputs: Iterable[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    shape: list[str | int | None] = ["n", 3, 4, 4]
    graph = helper.make_graph(
        nodes,
        "zoo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), *more_inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _onnx(
    folder: Path, model: onnx.ModelProto, tensors: Mapping[str, Array], **more: Any
) -> Layout:
    path = folder / "model.onnx"
    onnx.save(model, path)
    onnx.checker.check_model(str(path))
    return Layout(path, "onnx", tensors, **more)


ONNX_DEFAULT = Settings(1e-5, 0.1, False, True)


def _onnx_opset(folder: Path, opset: int) -> Layout:
    values = onnx_values("a", 0) | onnx_values("b", 1)
    nodes = [
        onnx_norm("a", "x", "h", epsilon=1e-3, momentum=0.99),
        onnx_norm("b", "h", "y"),
    ]
    layers = {"a": Settings(1e-3, 0.01, False, True), "b": ONNX_DEFAULT}
    return _onnx(folder, onnx_model(nodes, values, opset), values, layers=layers)


for _opset in (9, 17):
    BUILDERS[f"onnx-opset-{_opset}"] = partial(_onnx_opset, opset=_opset)


@layout
def onnx_training(folder: Path) -> Layout:
    values = onnx_values("a")
    node = onnx_norm("a", "x", "y", training_mode=1)
    node.output.extend(["a.mean_out", "a.var_out"])
    settings = {"a": Settings(1e-5, 0.1, True, True)}
    return _onnx(folder, onnx_model([node], values), values, layers=settings)


@layout
def onnx_initializers_are_inputs(folder: Path) -> Layout:
    values = onnx_values("a")
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in values]
    model = onnx_model([onnx_norm("a", "x", "y")], values, 9, inputs)
    return _onnx(folder, model, values, layers={"a": ONNX_DEFAULT})


@layout
def onnx_external_data(folder: Path) -> Layout:
    values = onnx_values("a")
    model = onnx_model([onnx_norm("a", "x", "y")], values)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    return Layout(path, "onnx", values, {"a": ONNX_DEFAULT})


@layout
def onnx_in_hf_cache(folder: Path) -> Layout:
    """Model and data are links into one folder of blobs: onnx.load refuses, onnxruntime accepts."""
    made = onnx_external_data(folder)
    blobs, snapshot = folder / "blobs", folder / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for name in ("model.onnx", "model.data"):
        (folder / name).rename(blobs / f"sha-of-{name}")
        (snapshot / name).symlink_to(f"../blobs/sha-of-{name}")
    return Layout(snapshot / "model.onnx", "onnx", made.tensors, made.layers)


@layout
def onnx_constant_nodes(folder: Path) -> Layout:
    values = onnx_values("a")
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in values.items()
    ]
    model = onnx_model([*constants, onnx_norm("a", "x", "y")], {})
    return _onnx(folder, model, values, layers={"a": ONNX_DEFAULT})


@layout
def onnx_shared_parameters(folder: Path) -> Layout:
    values = onnx_values("a")
    nodes = [onnx_norm("a", "x", "h"), onnx_norm("a", "h", "y")]
    layers = {"a": ONNX_DEFAULT, "a (2)": ONNX_DEFAULT}
    return _onnx(folder, onnx_model(nodes, values), values, layers=layers)


@layout
def onnx_shared_through_identity(folder: Path) -> Layout:
    values = onnx_values("a")
    copies = [
        helper.make_node("Identity", [f"a.{role}"], [f"b.{role}"]) for role in ("weight", "bias")
    ]
    own = {f"b.{role}": onnx_values("b", 1)[f"b.{role}"] for role in ONNX_ROLES[2:]}
    nodes = [*copies, onnx_norm("a", "x", "h"), onnx_norm("b", "h", "y")]
    layers = {"a": ONNX_DEFAULT, "b": ONNX_DEFAULT}
    return _onnx(folder, onnx_model(nodes, values | own), values | own, layers=layers)


def branch(name: str, seed: int, output: str) -> onnx.GraphProto:
    return helper.make_graph(
        [onnx_norm(name, "x", output)],
        output,
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in onnx_values(name, seed).items()],
    )


@layout
def onnx_inside_if(folder: Path) -> Layout:
    then, other = branch("a", 0, "then_y"), branch("b", 1, "else_y")
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    condition = {"c": np.array(True)}
    values = onnx_values("a", 0) | onnx_values("b", 1)
    layers = {"a": ONNX_DEFAULT, "b": ONNX_DEFAULT}
    model = onnx_model([node], condition)
    return _onnx(folder, model, condition | values, layers=layers)


@layout
def onnx_unnamed_tensors(folder: Path) -> Layout:
    """Optimisers number the tensors; then the node's name is the layer's."""
    values = {str(n): v for n, v in enumerate(onnx_values("a").values(), 100)}
    node = helper.make_node("BatchNormalization", ["x", *values], ["y"], name="/stem/norm")
    return _onnx(folder, onnx_model([node], values), values, layers={"/stem/norm": ONNX_DEFAULT})


@layout
def onnx_other_norms(folder: Path) -> Layout:
    names = [f"inorm.{role}" for role in ("weight", "bias")]
    values: dict[str, Array] = {name: np.ones(3, np.float32) for name in names}
    node = helper.make_node("InstanceNormalization", ["x", *names], ["y"], epsilon=1e-3)
    layers = {"inorm": Settings(1e-3)}
    return _onnx(folder, onnx_model([node], values), values, layers=layers)


# --- large files ----------------------------------------------------------------------------------


def write_large(path: Path, form: str, megabytes: int) -> State:
    """A checkpoint that is nearly all convolution; `form` is zip, legacy or safetensors."""
    size = megabytes * (1 << 20) // 4 // 8
    content = {f"conv{i}.weight": torch.empty(size) for i in range(8)} | statistics()
    if form == "safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return statistics()
