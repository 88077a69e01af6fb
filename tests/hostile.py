"""Files that mean harm, or that harm by accident, each built by a few lines of code.

`CASES` maps an id to what it is, the exit codes that are right for it, and its builder, which
gets an empty folder and returns the path to hand to bncheck. `PAYLOADS` are pickles that create the
file $BNCHECK_MARKER when they are really unpickled (a test makes sure that they would).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from tests import zoo

Build = Callable[[Path], Path]

READ, FOUND, REFUSED = frozenset({0}), frozenset({1}), frozenset({2})
#: Harmless either way: what counts is that nothing worse happens.
ANY = READ | FOUND | REFUSED


@dataclass(frozen=True)
class Case:
    """`weights`: the layer `bn` of zoo.statistics() must be reported with the right numbers."""

    what: str
    codes: frozenset[int]
    build: Build
    weights: bool = False


CASES: dict[str, Case] = {}


def add(name: str, codes: frozenset[int], what: str, build: Build, weights: bool = False) -> None:
    assert name not in CASES, name
    CASES[name] = Case(what, codes, build, weights)


def case(codes: frozenset[int], what: str, weights: bool = False) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        add(build.__name__.replace("_", "-"), codes, what, build, weights)
        return build

    return register


def _file(folder: Path, data: bytes, name: str = "model.pt") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


# --- accidents and containers ---------------------------------------------------------------------

_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"

for _name, _what, _data in (
    ("empty-file", "0 bytes", b""),
    ("html-page", "an error page saved as a checkpoint", b"\n <!DOCTYPE html><html></html>"),
    ("html-page-with-bom", "the same behind a byte order mark", b"\xef\xbb\xbf<html></html>"),
    ("lfs-pointer", "what git clones without LFS", _LFS),
    ("seven-zip", "7z, as used to slip past scanners", b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(40)),
    ("gzip", "a compressed file", b"\x1f\x8b\x08\x00" + bytes(40)),
    ("zeros", "a download that was preallocated and never filled", bytes(4096)),
    ("json-object", "a config in the place of weights", b'{"architectures": ["ResNet"]}'),
    ("json-list", "a list in the place of weights", b'[{"a": 1}]'),
    ("noise", "random bytes", np.random.default_rng(0).bytes(4096)),
    ("text", "a text that begins like an old pickle", b"checkpoint saved\nin another folder\n"),
    ("one-byte", "the beginning of a pickle and nothing else", b"\x80"),
    ("zip-end-only", "an empty zip archive", b"PK\x05\x06" + bytes(18)),
    ("zip-magic-only", "the magic of a zip archive and nothing else", b"PK\x03\x04"),
    ("gguf", "a language model in GGUF", b"GGUF\x03\0\0\0" + bytes(64)),
):
    add(_name, REFUSED, _what, partial(_file, data=_data))

add("lfs-pointer-safetensors", REFUSED, "the same under another name",
    partial(_file, data=_LFS, name="model.safetensors"))  # fmt: skip
add("missing-file", REFUSED, "a path that is not there", lambda folder: folder / "absent.pt")
add("empty-folder", REFUSED, "a folder without anything in it", lambda folder: folder)
add("endless-device", REFUSED, "a file that never ends", lambda folder: Path("/dev/zero"))
add("path-too-long", REFUSED, "a name beyond what the file system allows",
    lambda folder: folder / ("a" * 5000))  # fmt: skip


@case(REFUSED, "a link to itself")
def link_loop(folder: Path) -> Path:
    (folder / "model.pt").symlink_to("model.pt")
    return folder / "model.pt"


@case(REFUSED, "a named pipe without a writer: open() would wait for ever")
def named_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.pt")
    return folder / "model.pt"


@case(REFUSED, "a tar archive of torch 0.1, in which torch once unpickled without asking")
def tar_archive(folder: Path) -> Path:
    with tarfile.open(folder / "model.pt", "w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(PAYLOADS["reduce"])
        archive.addfile(info, io.BytesIO(PAYLOADS["reduce"]))
    return folder / "model.pt"


@case(REFUSED, "NumPy arrays, a zip archive as well")
def npz(folder: Path) -> Path:
    np.savez(folder / "model.npz", x=np.ones(3))
    return folder / "model.npz"


def _saved(folder: Path, content: object = None, legacy: bool = False) -> Path:
    path = folder / "saved.pt"
    content = zoo.statistics() if content is None else content
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def _records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pack(
    path: Path, records: Mapping[str, bytes], deflate: Callable[[str], bool] = lambda record: False
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for record, data in records.items():
            how = zipfile.ZIP_DEFLATED if deflate(record) else zipfile.ZIP_STORED
            archive.writestr(record, data, how, compresslevel=1)
    return path


def _cut(folder: Path, part: float, legacy: bool = False) -> Path:
    path = _saved(folder, legacy=legacy)
    data = path.read_bytes()
    return _file(folder, data[: int(len(data) * part)])


for _part in (0.1, 0.5, 0.99):
    add(f"zip-cut-at-{_part}", REFUSED, "an interrupted download", partial(_cut, part=_part))
    add(f"legacy-cut-at-{_part}", REFUSED, "the same of a legacy file",
        partial(_cut, part=_part, legacy=True))  # fmt: skip


@case(REFUSED, "unpacked and packed again with compression: torch's mmap reads garbage")
def zip_deflated(folder: Path) -> Path:
    return _pack(folder / "model.pt", _records(_saved(folder)), deflate=lambda record: True)


@case(REFUSED, "a deflated data.pkl that inflates to 100 MB")
def zip_bomb_pickle(folder: Path) -> Path:
    records = {"m/data.pkl": b"\x80\x02" + b"N0" * 50_000_000, "m/version": b"3\n"}
    return _pack(folder / "model.pt", records, deflate=lambda record: record.endswith("data.pkl"))


@case(REFUSED, "a deflated storage that inflates to 100 MB")
def zip_bomb_storage(folder: Path) -> Path:
    records = _records(_saved(folder)) | {"saved/data/2": bytes(100_000_000)}
    return _pack(folder / "model.pt", records, deflate=lambda record: record.endswith("data/2"))


def _flip(folder: Path, record: str, xor: int = 0x40) -> Path:
    data = bytearray(_saved(folder).read_bytes())
    content = _records(folder / "saved.pt")[record]
    data[data.index(content) + len(content) // 2] ^= xor
    return _file(folder, bytes(data))


add("bad-checksum-of-pickle", REFUSED, "a flipped bit in data.pkl",
    partial(_flip, record="saved/data.pkl"))  # fmt: skip
add("bad-checksum-of-storage", REFUSED, "a flipped bit in the running mean",
    partial(_flip, record="saved/data/2"))  # fmt: skip


def _append(path: Path, record: str, times: int) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # zipfile says that the name is a duplicate: it should be
        for _ in range(times):
            archive.writestr(record, b"\x80\x02}.")
    return path


def _duplicate(folder: Path, name: str) -> Path:
    path = _saved(folder)
    return _append(path, name, 1)


for _name, _key in {
    "zip-two-pickles": "saved/data.pkl",
    "zip-two-storages": "saved/data/0",
    "zip-two-pickles-in-two-folders": "other/data.pkl",
}.items():
    add(_name, REFUSED, "torch reads the first, Python's zipfile the last",
        partial(_duplicate, name=_key))  # fmt: skip


@case(REFUSED, "the directory calls a record data/2 that calls itself data/x")
def zip_names_disagree(folder: Path) -> Path:
    data = _saved(folder).read_bytes()
    return _file(folder, data.replace(b"saved/data/2", b"saved/data/x", 1))


@case(REFUSED, "the directory places every record beyond the end of the file")
def zip_sizes_lie(folder: Path) -> Path:
    data = bytearray(_saved(folder).read_bytes())
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<II", data, at + 20, 0x7FFFFFF0, 0x7FFFFFF0)
    return _file(folder, bytes(data))


@case(REFUSED, "the flag of encryption, which scanners skip and torch ignores")
def zip_encrypted_flag(folder: Path) -> Path:
    data = bytearray(_saved(folder).read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 8, 1)
    return _file(folder, bytes(data))


# --- a little assembler of pickles ----------------------------------------------------------------

PROTO = b"\x80\x04"


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def dict_(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_(*arguments) + b"R"


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def tensor(
    shape: tuple[int, ...] = (4,),
    strides: tuple[int, ...] = (1,),
    offset: int = 0,
    elements: int = 4,
    key: str = "0",
    storage: str = "FloatStorage",
) -> bytes:
    """A tensor as torch pickles it, over the storage `key`."""
    pid = tuple_(text("storage"), name("torch", storage), text(key), text("cpu"), integer(elements))
    numbers = [tuple_(*map(integer, values)) for values in (shape, strides)]
    return call(name("torch._utils", "_rebuild_tensor_v2"), pid + b"Q", integer(offset), *numbers)


def module(children: Mapping[str, bytes], buffers: Mapping[str, bytes] | None = None) -> bytes:
    state = {"_modules": dict_(children), "_parameters": b"}", "_buffers": dict_(buffers or {})}
    return call(name("models", "Net")) + dict_(state) + b"b"


STATISTICS = {"bn.running_mean": tensor(), "bn.running_var": tensor()}


def _in_zip(folder: Path, body: bytes, more: Mapping[str, bytes] | None = None) -> Path:
    """A torch archive with this pickle and one storage of four floats."""
    records = {
        "archive/data.pkl": PROTO + body + b".",
        "archive/data/0": np.array([0.5, 0.25, 0.75, 1.5], np.float32).tobytes(),
        "archive/version": b"3\n",
    }
    records |= {f"archive/{record}": data for record, data in (more or {}).items()}
    return _pack(folder / "model.pt", records)


def _pickle_case(key: str, codes: frozenset[int], what: str, body: bytes) -> None:
    add(key, codes, what, partial(_in_zip, body=body))


# --- payloads -------------------------------------------------------------------------------------

_COMMAND = text('echo pwned > "$BNCHECK_MARKER"')
_SYSTEM = name("os", "system")
_NAMESPACE = call(name("argparse", "Namespace"))
#: tuple.__new__(tuple, map.__new__(map, os.system, [command])): no opcode but NEWOBJ calls here.
_MAP = name("builtins", "map") + tuple_(_SYSTEM, b"](" + _COMMAND + b"e") + b"\x81"

#: One way to run a command for every opcode that calls; each leaves one value on the stack.
_BODIES = {
    "reduce": call(_SYSTEM, _COMMAND),
    "stack-global": text("os") + text("system") + b"\x93" + tuple_(_COMMAND) + b"R",
    "inst": b"(" + _COMMAND + b"ios\nsystem\n",
    "obj": b"(" + _SYSTEM + _COMMAND + b"o",
    "newobj": name("builtins", "tuple") + tuple_(_MAP) + b"\x81",
    "newobj-ex": name("builtins", "tuple") + tuple_(_MAP) + b"}\x92",
    "build-setstate": _NAMESPACE + dict_({"__setstate__": _SYSTEM}) + b"b" + _COMMAND + b"b",
    "append": _NAMESPACE + dict_({"append": _SYSTEM}) + b"b" + _COMMAND + b"a",
    "add-items": _NAMESPACE + dict_({"add": _SYSTEM}) + b"b(" + _COMMAND + b"\x90",
    "extension": b"\x82\xf0" + tuple_(_COMMAND) + b"R",
    "persistent-id": call(_SYSTEM, _COMMAND) + b"Q",
    "getattr-chain": call(
        call(
            name("builtins", "getattr"),
            call(name("importlib", "import_module"), text("os")),
            text("system"),
        ),
        _COMMAND,
    ),
    "exec": call(
        name("builtins", "exec"), text("import os; open(os.environ['BNCHECK_MARKER'], 'w')")
    ),
}
PAYLOADS = {key: PROTO + body + b"." for key, body in _BODIES.items()}


def _spliced(folder: Path, body: bytes, form: str) -> Path:
    """Weights whose pickle runs the payload first and drops its result."""
    if form == "plain":
        data = pickle.dumps(zoo.statistics(), protocol=2)
        return _file(folder, data[:2] + body + b"0" + data[2:])
    if form == "legacy":
        data = _saved(folder, legacy=True).read_bytes()
        at = data.rindex(b"\x80\x02", 0, data.index(b"bn."))
        return _file(folder, data[: at + 2] + body + b"0" + data[at + 2 :])
    records = _records(_saved(folder))
    pickled = records["saved/data.pkl"]
    records["saved/data.pkl"] = pickled[:2] + body + b"0" + pickled[2:]
    return _pack(folder / "model.pt", records)


for _name, _body in _BODIES.items():
    add(f"payload-{_name}-raw", ANY, "a pickle that is nothing but an attack",
        partial(_file, data=PAYLOADS[_name]))  # fmt: skip
    for _form in ("zip", "legacy", "plain"):
        add(f"payload-{_name}-{_form}", READ, f"an attack in a {_form} file beside good weights",
            partial(_spliced, body=_body, form=_form), weights=True)  # fmt: skip


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ('echo pwned > "$BNCHECK_MARKER"',)


@case(READ, "a payload among the values of a dict that holds the weights", weights=True)
def payload_beside_weights(folder: Path) -> Path:
    return _saved(folder, {"state_dict": zoo.statistics(), "config": _Evil()})


def _legacy_part(folder: Path, number: int) -> Path:
    """A legacy file whose pickle of this number (1 protocol, 2 system, 4 keys) is an attack."""
    data, parts = _saved(folder, legacy=True).read_bytes(), []
    for _ in range(5):
        end = zoo.end_of_pickle(data)
        parts.append(data[:end])
        data = data[end:]
    parts[number] = PAYLOADS["reduce"]
    return _file(folder, b"".join(parts) + data)


for _number in (1, 2, 4):
    add(f"payload-in-legacy-pickle-{_number}", ANY, "an attack in the frame of a legacy file",
        partial(_legacy_part, number=_number))  # fmt: skip


@case(ANY, "a payload in the place of the name of a storage")
def payload_as_storage_key(folder: Path) -> Path:
    pid = tuple_(text("storage"), name("torch", "FloatStorage"), _BODIES["reduce"], text("cpu"))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return _in_zip(folder, dict_({"bn.running_mean": call(rebuild, pid + b"Q", integer(0))}))


# --- pickles that eat time or memory --------------------------------------------------------------

_FUNCTION = name("a", "b")


def _laughs(level: Callable[[bytes], bytes], levels: int, leaf: bytes) -> bytes:
    """Each level holds the one before twice: 2^levels leaves in a few hundred bytes."""
    body = leaf + put(0) + b"0"
    for number in range(levels):
        body += level(get(number)) + put(number + 1) + b"0"
    return body + get(levels)


def _laughing_module(levels: int) -> bytes:
    return _laughs(lambda x: module({"a": x, "b": x}), levels, module({}, STATISTICS))


def _roots(levels: int, count: int) -> bytes:
    """Several modules, each of which holds one tree of 2^levels modules."""
    roots = [module({"a": get(levels)}) for _ in range(count)]
    return _laughing_module(levels) + b"0](" + b"".join(roots) + b"e"


def _colliding(count: int) -> list[bytes]:
    """Integers that Python's hash maps to 0: a dict of them takes quadratic time to build."""
    return [integer(number * (2**61 - 1)) for number in range(1, count + 1)]


_MANY = 200_000
_DEEP = 100_000
_LONG_NAME = "x" * 1_000_000
_TUPLES = b")" + b"2\x86" * 60  # (t, t), sixty levels

for _name, _codes, _what, _body in (
    ("memo-bomb", ANY, "a memo index that makes C pickle allocate 32 GiB", b"Nr\xff\xff\xff\x7f"),
    ("memo-missing", REFUSED, "a memo index that was never set", b"h\x07"),
    ("empty-stack", REFUSED, "STOP with nothing on the stack", b""),
    ("no-mark", REFUSED, "a list without its beginning", b"l"),
    ("unknown-opcode", REFUSED, "a byte that is no opcode", b"N\xff"),
    ("laughs-tuples", ANY, "2^60 tuples", _TUPLES),
    ("laughs-lists", ANY, "2^60 lists", b"(" * 60 + b"N" + b"2l" * 60),
    ("laughs-dicts", ANY, "2^60 dicts around a state dict",
     _laughs(lambda x: dict_({"a": x, "b": x}), 60, dict_(STATISTICS))),
    ("laughs-modules", ANY, "2^40 modules", _laughing_module(40)),
    ("laughs-modules-of-many-roots", ANY, "60 trees of 2^18 modules each, all below a limit",
     _roots(18, 60)),
    ("laughs-as-function", ANY, "the function of a call is 2^60 tuples: hashing it never ends",
     _TUPLES + b")R"),
    ("deep-tuple-as-function", ANY, "the function of a call is a million tuples deep",
     b")" + b"\x85" * 1_000_000 + b")R"),
    ("list-as-function", ANY, "the function of a call is a list, which has no hash", b"])R"),
    ("cycle-list", ANY, "a list in itself", b"]" + put(0) + get(0) + b"a"),
    ("cycle-dict", ANY, "a dict in itself", b"}" + put(0) + text("k") + get(0) + b"s"),
    ("cycle-module", ANY, "a module that is its own child",
     call(_FUNCTION) + put(0)
     + dict_({"_modules": dict_({"me": get(0)}), "_parameters": b"}", "_buffers": b"}"}) + b"b"),
    ("cycle-state", ANY, "an object that is its own state",
     call(_FUNCTION) + put(0) + get(0) + b"b"),
    ("deep-lists", ANY, "100,000 lists in each other", b"]" * (_DEEP + 1) + b"a" * _DEEP),
    ("deeper-lists", ANY, "a million lists in each other", b"]" * 1_000_001 + b"a" * 1_000_000),
    ("deep-tuples", ANY, "100,000 tuples in each other", b")" + b"\x85" * _DEEP),
    ("deep-dicts", ANY, "100,000 dicts in each other",
     (b"}" + text("k")) * _DEEP + b"}" + b"s" * _DEEP),
    ("deep-state-dicts", ANY, "5,000 dicts in each other, each with a tensor and a long name",
     tensor() + put(9) + b"0"
     + (b"}" + text("w") + get(9) + b"s" + text("k" * 200)) * 5000 + b"}" + b"s" * 5000),
    ("deep-calls", ANY, "100,000 calls in each other",
     _FUNCTION * _DEEP + b")" + b"R\x85" * _DEEP),
    ("deep-parameters", ANY, "100,000 parameters around each other",
     name("torch._utils", "_rebuild_parameter") * _DEEP + tensor() + b"\x85R" * _DEEP),
    ("deep-modules", ANY, "5,000 modules in each other",
     b"".join(call(_FUNCTION) + b"}" + text("_parameters") + b"}s" + text("_buffers") + b"}s"
              + text("_modules") + b"}" + text("m") for _ in range(5000))
     + b"N" + b"ssb" * 5000),
    ("long-names-in-each-other", ANY, "300 modules in each other, each name of a megabyte",
     text(_LONG_NAME) + put(9) + b"0"
     + b"".join(call(_FUNCTION) + b"}" + text("_parameters") + b"}s"
                + text("_buffers") + dict_({"b": tensor()}) + b"s"
                + text("_modules") + b"}" + get(9) for _ in range(300))
     + b"N" + b"ssb" * 300),
    ("long-keys-in-each-other", ANY, "2,000 dicts in each other, each key of a megabyte",
     text(_LONG_NAME) + put(9) + b"0"
     + (b"}" + text("w") + tensor() + b"s" + get(9)) * 2000 + b"}" + b"s" * 2000),
    ("prefix-without-end", ANY, "names that begin with 600,000 times `module.`",
     dict_({"module." * 600_000 + key: value for key, value in STATISTICS.items()})),
    ("shared-state", ANY, "20,000 objects that share a state of 20,000 entries",
     dict_({str(n): b"N" for n in range(20_000)}) + put(0) + b"0]("
     + (_FUNCTION + b")R" + get(0) + b"b") * 20_000 + b"e"),
    ("shared-state-and-slots", ANY, "the same with the state as a pair: (__dict__, slots)",
     dict_({str(n): b"N" for n in range(20_000)}) + b"N\x86" + put(0) + b"0]("
     + (_FUNCTION + b")R" + get(0) + b"b") * 20_000 + b"e"),
    ("shared-parameter-chain", ANY, "a chain of 300 parameters in 1,000,000 entries",
     name("torch._utils", "_rebuild_parameter") * 300 + tensor() + b"\x85R" * 300 + put(0)
     + b"0" + text("k") + put(1) + b"0}(" + (get(1) + get(0)) * 1_000_000 + b"u"),
    ("ten-million-dicts", ANY, "10 MB of EMPTY_DICT", b"}" * 9_900_000),
    ("too-many-operations", ANY, "60 MB of opcodes that do nothing", b"N0" * 30_000_000 + b"N"),
    ("hash-collisions", ANY, "a dict of 200,000 integers of one hash",
     b"}(" + b"".join(key + b"N" for key in _colliding(_MANY)) + b"u"),
    ("hash-collisions-in-a-set", ANY, "a frozenset of 200,000 integers of one hash",
     b"(" + b"".join(_colliding(_MANY)) + b"\x91"),
    ("huge-int", ANY, "an integer of 2^31-1 bytes", b"\x8b\xff\xff\xff\x7f"),
    ("huge-int-as-text", ANY, "an integer of 1,000,000 digits, quadratic to parse",
     b"I" + b"9" * 1_000_000 + b"\n"),
    ("huge-int-as-key", ANY, "a key of 10,000 digits, which Python refuses to print",
     b"}" + integer(1 << 32_000) + dict_(STATISTICS) + b"s"),
    ("huge-eps", ANY, "a module whose eps is no float's size",
     call(name("torch.nn", "BatchNorm2d"))
     + dict_({"_modules": b"}", "_parameters": b"}",
              "_buffers": dict_({"running_mean": tensor(), "running_var": tensor()}),
              "eps": integer(1 << 2000), "momentum": integer(1 << 2000)}) + b"b"),
    ("frame-length", ANY, "a frame of 2^60 bytes", b"\x95" + struct.pack("<Q", 1 << 60) + b"N"),
    ("bytearray-length", REFUSED, "a bytearray of 2^60 bytes",
     b"\x96" + struct.pack("<Q", 1 << 60)),
    ("bytes-length", REFUSED, "bytes of 2^63 bytes", b"\x8e" + struct.pack("<Q", 1 << 63)),
    ("text-length", REFUSED, "a text of 2^60 bytes", b"\x8d" + struct.pack("<Q", 1 << 60)),
    ("negative-length", REFUSED, "a number of -1 bytes", b"\x8b\xff\xff\xff\xff"),
    ("line-without-end", REFUSED, "a global whose name never ends", b"c" + b"a" * 1_000_000),
):  # fmt: skip
    _pickle_case(f"pickle-{_name}", _codes, _what, _body)


def _storage(of: Tensor) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TypedStorage is deprecated; plain pickles hold it
        make: Callable[[], object] = of.storage
        return make()


@case(ANY, "a nested torch file of two million operations, referred to 60 times")
def nested_file_shared(folder: Path) -> Path:
    inner = io.BytesIO()
    torch.save(_storage(torch.rand(4)), inner, _use_new_zipfile_serialization=False)
    data = inner.getvalue()
    at = data.rindex(b"\x80\x02", 0, data.index(b"storage"))
    data = data[: at + 2] + b"N0" * 1_000_000 + data[at + 2 :]
    blob = b"B" + struct.pack("<I", len(data)) + data
    storage = call(name("torch.storage", "_load_from_bytes"), blob)
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    first = call(rebuild, storage + put(0), integer(0), tuple_(integer(4)), tuple_(integer(1)))
    other = call(rebuild, get(0), integer(0), tuple_(integer(4)), tuple_(integer(1)))
    content = {"bn.running_mean": first} | {f"w{number}": other for number in range(60)}
    return _file(folder, PROTO + dict_(content) + b".")


# --- tensors that are not what they say -----------------------------------------------------------


def _statistics_are(shown: bytes) -> bytes:
    return dict_({"bn.running_mean": shown, "bn.running_var": tensor()})


for _name, _codes, _what, _tensor in (
    ("stride-0", REFUSED, "four bytes that pretend to be 4 TiB", tensor((1 << 40,), (0,))),
    ("stride-0-in-2d", REFUSED, "the same in two dimensions", tensor((1 << 20, 1 << 20), (0, 0))),
    ("negative-offset", REFUSED, "a view that begins before its storage", tensor(offset=-4)),
    ("negative-stride", REFUSED, "a view that runs backwards", tensor(strides=(-1,))),
    ("negative-shape", REFUSED, "minus four elements", tensor((-4,))),
    ("beyond-storage", REFUSED, "a view of a neighbour's bytes", tensor((5,), (1,))),
    ("beyond-storage-by-offset", REFUSED, "the same by its offset", tensor(offset=1)),
    ("2^60-elements", REFUSED, "a shape of 2^60", tensor((1 << 60,), (1,))),
    ("2^70-elements", REFUSED, "a shape beyond 64 bits", tensor((1 << 70,), (1,))),
    ("2^70-of-nothing", ANY, "no elements, but 2^70 rows", tensor((1 << 70, 0), (1, 1))),
    ("2^62-of-nothing", ANY, "no elements, but 2^62 rows", tensor((1 << 62, 0), (1, 1))),
    ("stride-of-2^70", ANY, "one element and a stride beyond 64 bits", tensor((1,), (1 << 70,))),
    ("65-dimensions", ANY, "more dimensions than NumPy has", tensor((1,) * 65, (1,) * 65)),
    ("100000-dimensions", ANY, "many more", tensor((1,) * _DEEP, (1,) * _DEEP)),
    ("storage-missing", REFUSED, "a storage that the archive lacks", tensor(key="7")),
    ("storage-elsewhere", REFUSED, "a storage named ../../x", tensor(key="../../x")),
    ("storage-short", REFUSED, "a storage shorter than the pickle says", tensor(elements=40)),
    ("storage-negative", ANY, "a storage of minus four elements", tensor(elements=-4)),
    ("unknown-dtype", REFUSED, "a storage of a type that nobody has", tensor(storage="Nope")),
    ("rank-mismatch", REFUSED, "more strides than dimensions", tensor((4,), (1, 1))),
    ("arguments-missing", REFUSED, "a tensor without arguments",
     call(name("torch._utils", "_rebuild_tensor_v2"))),
    ("numpy-bad-dtype", ANY, "an array of 7-byte floats",
     call(name("numpy._core.numeric", "_frombuffer"), b"C\x07" + bytes(7),
          call(name("numpy", "dtype"), text("f7")), tuple_(integer(1)), text("C"))),
    ("numpy-negative-shape", ANY, "an array of -1 x -4 numbers",
     call(name("numpy._core.numeric", "_frombuffer"), b"C\x10" + bytes(16),
          call(name("numpy", "dtype"), text("f4")), tuple_(integer(-1), integer(-4)), text("C"))),
    ("numpy-no-bytes", ANY, "an array whose contents are None",
     call(name("numpy._core.numeric", "_frombuffer"), b"N",
          call(name("numpy", "dtype"), text("f4")), tuple_(integer(4)), text("C"))),
    ("numpy-65-dimensions", ANY, "an array of too many dimensions",
     call(name("numpy._core.numeric", "_frombuffer"), b"C\x04" + bytes(4),
          call(name("numpy", "dtype"), text("f4")), tuple_(*[integer(1)] * 65), text("C"))),
):  # fmt: skip
    _pickle_case(f"tensor-{_name}", _codes, _what, _statistics_are(_tensor))


@case(REFUSED, "a whole storage less than the view needs, in the archive itself")
def storage_record_short(folder: Path) -> Path:
    return _in_zip(folder, dict_(STATISTICS), {"data/0": bytes(8)})


# --- statistics that are not numbers --------------------------------------------------------------


def _with(folder: Path, changed: Mapping[str, Tensor]) -> Path:
    return _saved(folder, zoo.statistics() | {f"bn.{key}": value for key, value in changed.items()})


for _name, _codes, _what, _changed in (
    ("nan", FOUND, "NaN", {"running_mean": torch.tensor([0.5, torch.nan, 1, 1])}),
    ("negative", FOUND, "a negative variance", {"running_var": torch.tensor([0.5, -1, 1, 1])}),
    ("infinite", FOUND, "an infinite variance", {"running_var": torch.full((4,), torch.inf)}),
    ("at-the-limits", ANY, "the largest doubles, whose squares overflow",
     {k: torch.full((4,), 1.7e308, dtype=torch.float64)
      for k in ("running_mean", "running_var", "weight")}),
    ("smallest", ANY, "the smallest doubles", {"running_var": torch.full((4,), 5e-324).double()}),
    ("complex", ANY, "complex numbers", {"running_mean": torch.full((4,), 1j)}),
    ("bool", ANY, "truth values", {"running_var": torch.ones(4, dtype=torch.bool)}),
    ("int8", ANY, "small integers", {"running_var": torch.full((4,), 100, dtype=torch.int8)}),
    ("uint64", ANY, "integers that no float holds",
     {"running_mean": torch.full((4,), 2**63 + 1, dtype=torch.uint64)}),
    ("float8", ANY, "eight-bit floats", {"running_var": torch.ones(4).to(torch.float8_e5m2)}),
    ("no-channels", ANY, "layers of no channels",
     {k: torch.empty(0) for k in ("running_mean", "running_var", "weight", "bias")}),
    ("no-channels-in-one", ANY, "a variance of no channels", {"running_var": torch.empty(0)}),
    ("sizes-differ", ANY, "a mean of three and a variance of four",
     {"running_mean": torch.rand(3)}),
    ("affine-differs", ANY, "weights of another length", {"weight": torch.rand(3)}),
    ("bias-differs", ANY, "a bias of another length", {"bias": torch.rand(7)}),
    ("scalars", ANY, "tensors without dimensions", {"running_mean": torch.tensor(0.5)}),
    ("matrix", ANY, "a mean of two dimensions", {"running_mean": torch.rand(2, 2)}),
    ("counter-negative", ANY, "-1 batches", {"num_batches_tracked": torch.tensor(-1)}),
    ("counter-nan", ANY, "NaN batches", {"num_batches_tracked": torch.tensor(torch.nan)}),
    ("counter-complex", ANY, "1j batches", {"num_batches_tracked": torch.tensor(1j)}),
    ("counter-vector", ANY, "four batch counters", {"num_batches_tracked": torch.arange(4)}),
    ("counter-huge", ANY, "2^63-1 batches", {"num_batches_tracked": torch.tensor(2**63 - 1)}),
    ("counter-1e308", ANY, "1e308 batches",
     {"num_batches_tracked": torch.tensor(1e308, dtype=torch.float64)}),
):  # fmt: skip
    add(f"statistics-{_name}", _codes, _what, partial(_with, changed=_changed))


# --- names that attack whoever reads them ---------------------------------------------------------

#: Steering characters in names; `visible` must turn each into an escape.
NAMES = {
    "ansi-title": "\x1b]0;owned\x07\x1b[31mred",
    "ansi-8-bit": "\x9b31mred\x90x\x9c",
    "osc-8-link": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "workflow": "\n::stop-commands::x\n::add-mask::y",
    "carriage-return": "good\rbad",
    "rich-markup": "[red]x[/red][link=http://evil]y[/link][/]",
    "emoji": ":skull: [bold",
    "bidi": "\u202egnp.exe\u2066",
    "zero-width": "a\u200bb\ufeff",
    "surrogate": "\ud800x\udfff",
    "nul": "a\x00b",
    "line-separator": "a\u2028b\u2029c\x85d",
    "megabyte": "m" * 1_000_000,
    "empty": "",
    "dots": "." * 1000,
    "astral": "\U000e0001\U0010ffff",
}


def _named(folder: Path, key: str) -> Path:
    bad = torch.tensor([0.5, torch.nan, 1.0, 1.0])  # a finding names the layer
    content = {f"{key}.running_mean": bad, f"{key}.running_var": torch.ones(4)}
    return _saved(folder, {"state_dict": content, "other": {key: {key: torch.ones(2)}}})


for _name, _key in NAMES.items():
    add(f"name-{_name}", FOUND, "a layer of this name has NaN", partial(_named, key=_key))


@case(FOUND, "the subtree that is taken has such a name, and so has its alternative")
def name_of_a_subtree(folder: Path) -> Path:
    content = {"bn.running_mean": torch.full((4,), torch.nan), "bn.running_var": torch.ones(4)}
    return _saved(
        folder, {NAMES["workflow"]: content, NAMES["bidi"] + NAMES["rich-markup"]: content}
    )


@case(REFUSED, "such a name in an error: two records")
def name_of_a_record(folder: Path) -> Path:
    return _append(_saved(folder), "saved/\x1b[31m\n::error::x", 2)


@case(REFUSED, "such a name in an error: a missing storage")
def name_of_a_storage(folder: Path) -> Path:
    return _in_zip(folder, dict_({"bn.running_mean": tensor(key="\x1b[31m\n::error::\ud800")}))


@case(REFUSED, "such a name in an error: a dtype")
def name_of_a_dtype(folder: Path) -> Path:
    kind = "\x1b[31m\u202e"
    return _in_zip(folder, dict_({"bn.running_mean": tensor(storage=kind)}))


@case(READ, "such a name for the file itself", weights=True)
def name_of_the_file(folder: Path) -> Path:
    return _saved(folder).rename(folder / "\x1b[31m\n::error::[red]\u202e.pt")


@case(REFUSED, "such a name for a file that cannot be read")
def name_of_a_bad_file(folder: Path) -> Path:
    return _file(folder, b"", "\x1b[31m\n::error::[red]\u202e.pt")


@case(READ, "a file name that is no UTF-8", weights=True)
def name_of_bytes(folder: Path) -> Path:
    return _saved(folder).rename(folder / os.fsdecode(b"\xff\xfe.pt"))


# --- safetensors ----------------------------------------------------------------------------------


def _safetensors(folder: Path, header: bytes | object, data: bytes = bytes(32)) -> Path:
    text_ = header if isinstance(header, bytes) else json.dumps(header).encode()
    return _file(folder, struct.pack("<Q", len(text_)) + text_ + data, "model.safetensors")


def _entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


_MEAN, _VAR = "bn.running_mean", "bn.running_var"
_GOOD = {_MEAN: _entry([4], 0, 16), _VAR: _entry([4], 16, 32)}
_RAW_MEAN = b'"bn.running_mean": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}'

for _name, _codes, _what, _header in (
    ("overlap", REFUSED, "two tensors over the same bytes",
     {_MEAN: _entry([4], 0, 16), _VAR: _entry([4], 8, 24)}),
    ("hole", REFUSED, "bytes that belong to nobody",
     {_MEAN: _entry([3], 0, 12), _VAR: _entry([4], 16, 32)}),
    ("trailing", REFUSED, "bytes behind the last tensor", {_MEAN: _entry([4], 0, 16)}),
    ("beyond", REFUSED, "a tensor beyond the file", {_MEAN: _entry([400], 0, 1600)}),
    ("backwards", REFUSED, "an end before its beginning",
     {_MEAN: _entry([4], 16, 0), _VAR: _entry([4], 16, 32)}),
    ("negative", REFUSED, "a negative offset", {_MEAN: _entry([4], -16, 0)}),
    ("shape-overflow", REFUSED, "a shape whose product overflows",
     {_MEAN: _entry([1 << 33, 1 << 33], 0, 32)}),
    ("shape-disagrees", REFUSED, "a shape that does not fit its bytes",
     {_MEAN: _entry([5], 0, 32)}),
    ("unknown-dtype", REFUSED, "a dtype that nobody has", {_MEAN: _entry([4], 0, 32, "F99")}),
    ("65-dimensions", ANY, "more dimensions than NumPy has",
     {_MEAN: _entry([1] * 65 + [8], 0, 32)}),
    ("100000-dimensions", ANY, "a shape of 100,000 ones",
     {_MEAN: _entry([1] * _DEEP + [8], 0, 32)}),
    ("rows-of-nothing", ANY, "no elements, but 2^62 rows",
     {_MEAN: _entry([1 << 62, 0], 0, 0), _VAR: _entry([8], 0, 32)}),
    ("nan-in-header", REFUSED, "NaN is no JSON", {**_GOOD, "x": float("nan")}),
    ("deep-json", REFUSED, "100,000 arrays in each other",
     b'{"x":' + b"[" * _DEEP + b"]" * _DEEP + b"}"),
    ("duplicate", REFUSED, "a name twice",
     b"{" + _RAW_MEAN + b"," + _RAW_MEAN.replace(b"0, 16", b"16, 32") + b"}"),
    ("huge-number", REFUSED, "an offset of 5,000 digits",
     b"{" + _RAW_MEAN.replace(b"16]", b"9" * 5000 + b"]") + b"}"),
    ("not-utf-8", REFUSED, "a name that is no text",
     b"{" + _RAW_MEAN.replace(b"bn", b"\xff") + b"}"),
    ("not-json", REFUSED, "a brace and noise", b"{" + bytes(range(128, 256))),
):  # fmt: skip
    add(f"safetensors-{_name}", _codes, _what, partial(_safetensors, header=_header))

for _length in (100, 99_000_000, 1 << 63, 2**64 - 1):
    add(f"safetensors-header-of-{_length}", REFUSED, "a header longer than the file",
        partial(_file, data=struct.pack("<Q", _length) + b'{"a": 1}',
                name="m.safetensors"))  # fmt: skip


def _index(folder: Path, content: object) -> Path:
    safetensors.torch.save_file(zoo.statistics(), folder / "good.safetensors")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return _file(folder, raw, "model.safetensors.index.json")


for _name, _what, _content in (
    ("parent", "../x", {"weight_map": {_MEAN: "../x"}}),
    ("absolute", "/etc/passwd", {"weight_map": {_MEAN: "/etc/passwd"}}),
    ("dots", "..", {"weight_map": {_MEAN: ".."}}),
    ("folder", "a folder", {"weight_map": {_MEAN: "folder"}}),
    ("pipe", "a named pipe", {"weight_map": {_MEAN: "pipe"}}),
    ("itself", "the index itself", {"weight_map": {_MEAN: "model.safetensors.index.json"}}),
    ("too-long", "a name of 5,000 characters", {"weight_map": {_MEAN: "a" * 5000}}),
    ("nul", "a name with a NUL", {"weight_map": {_MEAN: "a\0b"}}),
    ("surrogate", "a name that is no text", {"weight_map": {_MEAN: "\ud800"}}),
    ("ansi", "a name that steers the terminal", {"weight_map": {_MEAN: "\x1b[31m\n::error::x"}}),
    ("absent-tensor", "a tensor that its shard lacks", {"weight_map": {_MEAN: "good.safetensors",
     "b.running_mean": "good.safetensors"}}),
    ("number", "a number for a name", {"weight_map": {_MEAN: 7}}),
    ("list", "a list for a map", {"weight_map": [1, 2]}),
    ("no-map", "no map", {"a": 1}),
    ("deep", "100,000 objects in each other", b'{"a":' * _DEEP + b"1" + b"}" * _DEEP),
    ("huge-number", "a number of 5,000 digits", b'{"weight_map": ' + b"9" * 5000 + b"}"),
    ("cut-off", "half a file", b'{"weight_map": {'),
):  # fmt: skip
    add(f"index-{_name}", REFUSED, f"an index of shards that names {_what}",
        partial(_index, content=_content))  # fmt: skip


# --- distributed checkpoints ----------------------------------------------------------------------


def _distributed(folder: Path, old: bytes = b"", new: bytes = b"") -> Path:
    """A good one, in whose pickled .metadata `old` is replaced by `new` (of any length)."""
    halves = [slice(0, 2), slice(2, 4)]
    zoo.write_chunks(folder, {k: (v, halves) for k, v in zoo.statistics().items()})
    path = folder / ".metadata"
    data = path.read_bytes()
    assert old in data
    # Frames tell lengths that would no longer be right; a pickle may do without them.
    path.write_bytes(data[:2] + data[11:].replace(old, new))
    return folder


def _short_text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


_DATA = _short_text("__0_0.distcp")
for _name, _path in (
    ("parent", "../x"),
    ("absolute", "/etc/passwd"),
    ("device", "/dev/zero"),
    ("absent", "absent.distcp"),
    ("metadata", ".metadata"),
):
    add(f"distributed-{_name}", REFUSED, f"a .metadata that names {_path}",
        partial(_distributed, old=_DATA, new=_short_text(_path)))  # fmt: skip

add("distributed-intact", READ, "none: that the replacements above hit a good one", _distributed,
    weights=True)  # fmt: skip
add("distributed-payload-metadata", ANY, "a .metadata that is an attack",
    lambda folder: _file(folder, PAYLOADS["reduce"], ".metadata").parent)  # fmt: skip
add("distributed-noise-metadata", REFUSED, "a .metadata of noise",
    lambda folder: _file(folder, b"\x80\x04" + bytes(50), ".metadata").parent)  # fmt: skip


@case(READ, "a payload at the beginning of a good .metadata", weights=True)
def distributed_payload_beside_weights(folder: Path) -> Path:
    path = _distributed(folder) / ".metadata"
    data = path.read_bytes()
    path.write_bytes(data[:2] + _BODIES["reduce"] + b"0" + data[2:])
    return folder


def _metadata(folder: Path, tensors: bytes, places: bytes) -> Path:
    state = {"state_dict_metadata": tensors, "storage_data": places}
    body = call(name("torch.distributed.checkpoint.metadata", "Metadata")) + dict_(state) + b"b"
    return _file(folder, PROTO + body + b".", ".metadata").parent


def _object(kind: str, **fields: bytes) -> bytes:
    return call(name("torch.distributed.checkpoint.metadata", kind)) + dict_(fields) + b"b"


def _size(*sizes: int) -> bytes:
    return call(name("torch", "Size"), tuple_(*map(integer, sizes)))


def _place(offsets: bytes, length: int, file: str = "__0_0.distcp") -> bytes:
    """One entry of storage_data: a key and where its bytes are."""
    key = _object("MetadataIndex", fqn=text(_MEAN), offset=offsets)
    fields = {"relative_path": text(file), "offset": integer(0), "length": integer(length)}
    return key + _object("_StorageInfo", **fields)


def _one_tensor(size: bytes, chunks: bytes) -> bytes:
    return dict_({_MEAN: _object("TensorStorageMetadata", size=size, chunks=chunks)})


@case(ANY, "a kilobyte of file that 500 chunks expand to 60 MiB each")
def distributed_expanded_chunks(folder: Path) -> Path:
    torch.save(torch.rand(1).expand(15 << 20), folder / "__0_0.distcp")
    length = (folder / "__0_0.distcp").stat().st_size
    chunk = _object("ChunkStorageMetadata", offsets=_size(0), sizes=_size(15 << 20))
    chunks = chunk + put(0) + b"0](" + get(0) * 500 + b"e"
    places = b"}(" + _place(_size(0), length) + b"u"
    return _metadata(folder, _one_tensor(_size(15 << 20), chunks), places)


@case(ANY, "40,000 chunks whose offsets all have one hash")
def distributed_hash_collisions(folder: Path) -> Path:
    offsets = [_size(number * (2**61 - 1)) for number in range(40_000)]
    places = b"}(" + b"".join(_place(offset, 8) for offset in offsets) + b"u"
    return _metadata(folder, _one_tensor(_size(4), b"]"), places)


for _name, _what, _size_, _offsets, _sizes in (
    ("ranks-differ", "a chunk whose offsets and sizes differ in length", (4,), (0, 0), (2,)),
    ("too-many-axes", "a chunk of more axes than its tensor", (4,), (0, 0), (2, 2)),
    ("outside", "a chunk outside its tensor", (4,), (100,), (2,)),
    ("giant", "a tensor of 2^60 elements", (1 << 60,), (0,), (2,)),
    ("rows-of-nothing", "a tensor of 2^70 x 0", (1 << 70, 0), (0, 0), (1 << 70, 0)),
):

    def _odd_chunk(
        folder: Path,
        size: tuple[int, ...] = _size_,
        offsets: tuple[int, ...] = _offsets,
        sizes: tuple[int, ...] = _sizes,
    ) -> Path:
        torch.save(torch.rand(2), folder / "__0_0.distcp")
        length = (folder / "__0_0.distcp").stat().st_size
        chunk = _object("ChunkStorageMetadata", offsets=_size(*offsets), sizes=_size(*sizes))
        places = b"}(" + _place(_size(*offsets), length) + b"u"
        return _metadata(folder, _one_tensor(_size(*size), b"](" + chunk + b"e"), places)

    add(f"distributed-chunk-{_name}", REFUSED, _what, _odd_chunk)


# --- exported programs and TorchScript ------------------------------------------------------------

_EXPORTED: list[dict[str, bytes]] = []


def _exported(folder: Path) -> dict[str, bytes]:
    """The records of a good .pt2 with the layer `bn`; exporting is slow, so it is done once."""
    if not _EXPORTED:
        model = nn.Sequential()
        model.bn = nn.BatchNorm2d(4)
        model.load_state_dict(zoo.statistics(), strict=False)
        program = torch.export.export(model.eval(), (torch.rand(2, 4, 3, 3),))
        torch.export.save(program, folder / "good.pt2")
        _EXPORTED.append(_records(folder / "good.pt2"))
    return dict(_EXPORTED[0])


def _edited(folder: Path, ending: str, old: bytes, new: bytes) -> Path:
    records = _exported(folder)
    key = next(record for record in records if record.endswith(ending))
    assert old in records[key]
    records[key] = records[key].replace(old, new)
    return _pack(folder / "model.pt2", records)


_MODEL_JSON, _CONFIG_JSON = "models/model.json", "model_weights_config.json"

add("exported-intact", READ, "none: that the edits below hit a good one",
    partial(_edited, ending=_MODEL_JSON, old=b"", new=b""), weights=True)  # fmt: skip
add("exported-payload-sample-inputs", READ, "sample inputs that are an attack",
    lambda folder: _pack(folder / "model.pt2", {
        record: PAYLOADS["reduce"] if "sample_inputs" in record else data
        for record, data in _exported(folder).items()}), weights=True)  # fmt: skip
for _name, _codes, _what, _ending, _old, _new in (
    ("use-pickle", REFUSED, "weights that are pickles", _CONFIG_JSON,
     b'"use_pickle": false', b'"use_pickle": true'),
    ("traversal", REFUSED, "weights outside the archive", _CONFIG_JSON,
     b'"path_name": "', b'"path_name": "../../'),
    ("deep-json", REFUSED, "100,000 arrays in each other", _MODEL_JSON,
     b"{", b'{"x": ' + b"[" * _DEEP + b"]" * _DEEP + b', "y":{'),
    ("json-list", REFUSED, "a list in the place of an object", _CONFIG_JSON, b"{", b"[{"),
    ("eps-is-text", ANY, "an eps that is a text", _MODEL_JSON,
     b'"as_float": 1e-05', b'"as_float": "1e-05"'),
    ("eps-is-list", ANY, "an eps that is a list", _MODEL_JSON, b'"as_float": 1e-05',
     b'"as_float": [1]'),
    ("eps-is-giant", ANY, "an eps of 400 digits", _MODEL_JSON, b'"as_float": 1e-05',
     b'"as_float": 1' + b"0" * 400),
    ("momentum-is-nan", ANY, "a momentum of NaN", _MODEL_JSON, b'"as_float": 0.1',
     b'"as_float": NaN'),
    ("momentum-is-list", ANY, "a momentum that is a list", _MODEL_JSON, b'"as_float": 0.1',
     b'"as_float": [1]'),
    ("sizes-giant", REFUSED, "a weight of 2^60 elements", _CONFIG_JSON, b'"as_int": 4',
     b'"as_int": 1152921504606846976'),
    ("sizes-negative", REFUSED, "a weight of -4 elements", _CONFIG_JSON, b'"as_int": 4',
     b'"as_int": -4'),
    ("dtype-unknown", REFUSED, "a dtype that nobody has", _CONFIG_JSON, b'"dtype": 7',
     b'"dtype": 77'),
):  # fmt: skip
    add(f"exported-{_name}", _codes, _what, partial(_edited, ending=_ending, old=_old, new=_new))


@case(ANY, "60 MB of deflated JSON, which takes 20 times that in memory")
def exported_json_bomb(folder: Path) -> Path:
    records = _exported(folder)
    key = next(record for record in records if record.endswith(_MODEL_JSON))
    records[key] = b'{"x":[' + b"{}," * 20_000_000 + b"{}]}"
    return _pack(folder / "model.pt2", records, deflate=lambda record: record.endswith(".json"))


def _torchscript(folder: Path, code: Mapping[str, bytes], deflate: bool = False) -> Path:
    statistics = {"running_mean": tensor(), "running_var": tensor()}
    norm = call(name("__torch__", "BatchNorm2d")) + dict_(statistics) + b"b"
    numbers = np.ones(4, np.float32).tobytes()
    records = {
        "m/data.pkl": PROTO + call(name("__torch__", "Net")) + dict_({"bn": norm}) + b"b.",
        "m/constants.pkl": PROTO + b"(" + tensor() + b"t.",
        "m/data/0": numbers,
        "m/constants/0": numbers,
        "m/version": b"3\n",
    }
    records |= {f"m/code/{record}": data for record, data in code.items()}
    return _pack(folder / "model.pt", records, lambda record: deflate and "/code/" in record)


_NORM_CODE = b"class BatchNorm2d(Module):\n  eps : Final[float] = 1e-05\n"
#: 60 MB of code in which there is nothing but the beginning of a class.
_BLANKS = b"class C(Module):\n" + b" " * 60_000_000

add("torchscript-regex", ANY, "code that makes a regular expression go back and forth",
    partial(_torchscript, code={"__torch__.py": b"class BatchNorm2d(Module):\n  "
                                + b"torch.batch_norm(" * 60_000}))  # fmt: skip
add("torchscript-regex-commas", ANY, "the same with commas",
    partial(_torchscript, code={"__torch__.py": b"class BatchNorm2d(Module):\n  "
                                + b"torch.batch_norm(x, w, b, m, v, " * 60_000}))  # fmt: skip
add("torchscript-code-bomb", ANY, "20 files of code that inflate to 60 MB each",
    partial(_torchscript, deflate=True, code={"__torch__.py": _NORM_CODE}
            | {f"__torch__/c{n}.py": _BLANKS for n in range(20)}))  # fmt: skip
add("torchscript-code-not-text", ANY, "code that is noise",
    partial(_torchscript, code={"__torch__.py": bytes(range(256)) * 10}))  # fmt: skip
add("torchscript-no-code", ANY, "a class whose code is missing",
    partial(_torchscript, code={"other.py": b""}))  # fmt: skip
add("torchscript-eps-not-a-number", ANY, "an eps of 1e999 and one of text",
    partial(_torchscript, code={"__torch__.py": b"class BatchNorm2d(Module):\n"
            b"  eps : Final[float] = 1e999\n  momentum : Final[float] = abc\n"}))  # fmt: skip


# --- ONNX -----------------------------------------------------------------------------------------


def _onnx(folder: Path, edit: Callable[[onnx.ModelProto], object]) -> Path:
    model = zoo.onnx_model([zoo.onnx_norm("bn", "x", "y")], zoo.onnx_values("bn"))
    edit(model)
    return _file(folder, model.SerializeToString(), "model.onnx")


def _mean(model: onnx.ModelProto) -> TensorProto:
    found: TensorProto = next(i for i in model.graph.initializer if i.name == _MEAN)
    return found


def _external(location: str, more: Mapping[str, str]) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        mean = _mean(model)
        mean.ClearField("raw_data")
        mean.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": location, **more}).items():
            mean.external_data.add(key=key, value=value)

    return edit


def _onnx_external(folder: Path, location: str, more: Mapping[str, str] | None = None) -> Path:
    inside = folder / "inside"
    inside.mkdir()
    for place in (folder, inside):
        _file(place, np.ones(3, np.float32).tobytes(), "data.bin")
    (inside / "link").symlink_to("../data.bin")
    (inside / "zero").symlink_to("/dev/zero")
    (inside / "loop").symlink_to("loop")
    (inside / "folder").mkdir()
    os.mkfifo(inside / "pipe")
    os.link(folder / "data.bin", inside / "hard")
    return _onnx(inside, _external(location.replace("FOLDER", str(folder)), more or {}))


for _name, _location in {
    "traversal": "../data.bin",
    "hidden-traversal": "folder/../../data.bin",
    "absolute": "FOLDER/data.bin",
    "symlink": "link",
    "hard-link": "hard",
    "device": "zero",
    "pipe": "pipe",
    "folder": "folder",
    "link-loop": "loop",
    "itself-dot": ".",
    "nothing": "",
    "absent": "absent.bin",
    "too-long": "a" * 5000,
    "nul": "data.bin\0",
    "ansi": "\x1b[31m\n::error::x",
}.items():
    add(f"onnx-external-{_name}", REFUSED, f"external data in {_location[:20]!r}",
        partial(_onnx_external, location=_location))  # fmt: skip

add("onnx-external-intact", READ, "none: that the places above differ from a good one",
    partial(_onnx_external, location="data.bin"))  # fmt: skip
for _name, _entries in {
    "negative-offset": {"offset": "-4"},
    "offset-beyond": {"offset": "4000"},
    "offset-not-a-number": {"offset": "x"},
    "offset-huge": {"offset": "9" * 5000},
    "length-differs": {"length": "4"},
    "length-negative": {"length": "-12"},
}.items():
    add(f"onnx-external-{_name}", REFUSED, f"external data with {_name}",
        partial(_onnx_external, location="data.bin", more=_entries))  # fmt: skip


def _set_dims(model: onnx.ModelProto, *dims: int) -> None:
    _mean(model).dims[:] = dims


def _text_mean(model: onnx.ModelProto) -> None:
    words = np.array(["a", "b", "c"], dtype=object)
    _mean(model).CopyFrom(numpy_helper.from_array(words, _MEAN))


def _retyped(model: onnx.ModelProto, data_type: int) -> None:
    _mean(model).data_type = data_type


def _nest(model: onnx.ModelProto, depth: int) -> None:
    inner = model.graph
    for _ in range(depth):
        node = inner.node.add(op_type="If")
        inner = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g


def _no_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[:]


def _epsilon(model: onnx.ModelProto, value: float) -> None:
    model.graph.node[0].attribute.add(name="epsilon", f=value, type=onnx.AttributeProto.FLOAT)
    model.graph.node[0].attribute.add(name="momentum", f=value, type=onnx.AttributeProto.FLOAT)


for _name, _codes, _what, _edit in (
    ("no-graph", REFUSED, "a model without a graph", lambda m: m.ClearField("graph")),
    ("no-nodes", REFUSED, "a graph without nodes", lambda m: m.graph.ClearField("node")),
    ("huge-dims", REFUSED, "an initialiser of 2^60", lambda m: _set_dims(m, 1 << 60)),
    ("negative-dims", REFUSED, "an initialiser of -3", lambda m: _set_dims(m, -3)),
    ("dims-differ", REFUSED, "an initialiser of 4 in the bytes of 3", lambda m: _set_dims(m, 4)),
    ("rows-of-nothing", REFUSED, "2^62 rows of nothing", lambda m: _set_dims(m, 1 << 62, 0)),
    ("text", ANY, "a mean of texts", _text_mean),
    ("no-type", REFUSED, "an initialiser without a type", lambda m: _retyped(m, 0)),
    ("unknown-type", REFUSED, "a type that nobody has", lambda m: _retyped(m, 99)),
    ("nested-graphs", ANY, "25 graphs in each other", lambda m: _nest(m, 25)),
    ("no-inputs", ANY, "a BatchNormalization of nothing", _no_inputs),
    ("epsilon-nan", ANY, "an epsilon of NaN", lambda m: _epsilon(m, float("nan"))),
    ("epsilon-infinite", ANY, "an infinite epsilon", lambda m: _epsilon(m, float("inf"))),
    ("name-workflow", READ, "a node whose name speaks to the CI runner",
     lambda m: setattr(m.graph.node[0], "name", NAMES["workflow"])),
):  # fmt: skip
    add(f"onnx-{_name}", _codes, _what, partial(_onnx, edit=_edit))
