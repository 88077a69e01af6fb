"""Files of torch.save before its zip format: pickles, then storages."""

from __future__ import annotations

import pickle
import pickletools
import types
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from tests.zoo.layout import NAMES, NET_SETTINGS, Layout, layout, silent
from tests.zoo.states import arrays, net, prefixed, state, trained
from tests.zoo.tensors import views
from tests.zoo.torch_zip import Hyper


def _save(content: object, path: Path, **more: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False, **more)


@layout
def legacy_bare(folder: Path) -> Layout:
    path = folder / "checkpoint.pth"
    _save(net().state_dict(), path)
    return Layout(path, "torch-legacy", arrays(state()), silent())


@layout
def legacy_below_key(folder: Path) -> Layout:
    model, optimizer = trained()
    path = folder / "checkpoint.pth.tar"
    expected = prefixed("module.", model.state_dict())
    _save({"state_dict": expected, "optimizer": optimizer, "arch": Hyper()}, path)
    layers = silent(f"module.{name}" for name in NAMES)
    return Layout(path, "torch-legacy", arrays(expected), layers, key="state_dict")


@layout
def legacy_shared_storage(folder: Path) -> Layout:
    path = folder / "checkpoint.pth"
    expected = views()
    _save(expected, path)
    return Layout(path, "torch-legacy", arrays(expected), silent(["bn"]))


@layout
def legacy_whole_module(folder: Path) -> Layout:
    path = folder / "module.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Couldn't retrieve source code"
        _save(net(), path)
    return Layout(path, "torch-legacy", arrays(state()), NET_SETTINGS)


@layout
def legacy_from_big_endian_machine(folder: Path) -> Layout:
    # torch writes legacy numbers little-endian on every machine and ignores this flag on reading.
    path = folder / "checkpoint.pth"
    _save(state(), folder / "native.pth")
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
    _save(OrderedDict(state()), folder / "python3.pth", pickle_module=pairs)
    data, out = (folder / "python3.pth").read_bytes(), b""
    for _ in range(5):  # magic number, protocol, system, object, storage keys
        end = end_of_pickle(data)
        out, data = out + python2_strings(data[:end]), data[end:]
    path.write_bytes(out + data)
    return Layout(path, "torch-legacy", arrays(state()), silent())
