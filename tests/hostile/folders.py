"""Folders: indices of shards and distributed checkpoints that reach outside or lie."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import safetensors.torch
import torch

from tests.hostile.assembler import PROTO, call, dict_, get, integer, name, put, text, tuple_
from tests.hostile.case import ANY, READ, REFUSED, add, case, file
from tests.hostile.payloads import BODIES, PAYLOADS
from tests.hostile.pickles import DEEP
from tests.hostile.safetensors_files import MEAN
from tests.hostile.size import many
from tests.zoo import states as zoo
from tests.zoo.distributed import write_chunks


def _index(folder: Path, content: object) -> Path:
    safetensors.torch.save_file(zoo.statistics(), folder / "good.safetensors")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return file(folder, raw, "model.safetensors.index.json")


for _name, _what, _content in (
    ("parent", "../x", {"weight_map": {MEAN: "../x"}}),
    ("absolute", "/etc/passwd", {"weight_map": {MEAN: "/etc/passwd"}}),
    ("dots", "..", {"weight_map": {MEAN: ".."}}),
    ("folder", "a folder", {"weight_map": {MEAN: "folder"}}),
    ("pipe", "a named pipe", {"weight_map": {MEAN: "pipe"}}),
    ("itself", "the index itself", {"weight_map": {MEAN: "model.safetensors.index.json"}}),
    ("too-long", "a name of 5,000 characters", {"weight_map": {MEAN: "a" * 5000}}),
    ("nul", "a name with a NUL", {"weight_map": {MEAN: "a\0b"}}),
    ("surrogate", "a name that is not text", {"weight_map": {MEAN: "\ud800"}}),
    ("ansi", "a name that steers the terminal", {"weight_map": {MEAN: "\x1b[31m\n::error::x"}}),
    ("absent-tensor", "a tensor that its shard lacks", {"weight_map": {MEAN: "good.safetensors",
     "b.running_mean": "good.safetensors"}}),
    ("number", "a number for a name", {"weight_map": {MEAN: 7}}),
    ("list", "a list for a map", {"weight_map": [1, 2]}),
    ("no-map", "no map", {"a": 1}),
    ("deep", "100,000 objects in each other", b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    ("huge-number", "a number of 5,000 digits", b'{"weight_map": ' + b"9" * 5000 + b"}"),
    ("cut-off", "half a file", b'{"weight_map": {'),
):  # fmt: skip
    add(f"index-{_name}", REFUSED, f"an index of shards that names {_what}",
        partial(_index, content=_content))  # fmt: skip


def _two_shards(folder: Path, whole: bool = False) -> Path:
    """An index whose variance lies in the second shard, too, and is bad there."""
    good = zoo.statistics()
    bad = {"bn.running_var": -torch.ones(4), "fc.weight": torch.ones(2)}
    for shard, tensors in (("good", good), ("bad", bad)):
        safetensors.torch.save_file(tensors, folder / f"{shard}.safetensors")
    places = {**dict.fromkeys(good, "good.safetensors"), "fc.weight": "bad.safetensors"}
    if whole:
        safetensors.torch.save_file(bad, folder / "model.safetensors")
        places["fc.weight"] = "good.safetensors"
    index = file(
        folder, json.dumps({"weight_map": places}).encode(), "model.safetensors.index.json"
    )
    return folder if whole else index


add("index-two-shards", REFUSED, "a tensor that lies in two shards", _two_shards)
add("index-and-whole", REFUSED, "a folder with whole weights beside an index",
    partial(_two_shards, whole=True))  # fmt: skip


# --- distributed checkpoints ----------------------------------------------------------------------


def _distributed(folder: Path, old: bytes = b"", new: bytes = b"") -> Path:
    """A good one, in whose pickled .metadata `old` is replaced by `new` (of any length)."""
    halves = [slice(0, 2), slice(2, 4)]
    write_chunks(folder, {k: (v, halves) for k, v in zoo.statistics().items()})
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
    lambda folder: file(folder, PAYLOADS["reduce"], ".metadata").parent)  # fmt: skip
add("distributed-noise-metadata", REFUSED, "a .metadata of noise",
    lambda folder: file(folder, b"\x80\x04" + bytes(50), ".metadata").parent)  # fmt: skip


@case(READ, "a payload at the beginning of a good .metadata", weights=True)
def distributed_payload_beside_weights(folder: Path) -> Path:
    path = _distributed(folder) / ".metadata"
    data = path.read_bytes()
    path.write_bytes(data[:2] + BODIES["reduce"] + b"0" + data[2:])
    return folder


def _metadata(folder: Path, tensors: bytes, places: bytes) -> Path:
    state = {"state_dict_metadata": tensors, "storage_data": places}
    body = call(name("torch.distributed.checkpoint.metadata", "Metadata")) + dict_(state) + b"b"
    return file(folder, PROTO + body + b".", ".metadata").parent


def _object(kind: str, **fields: bytes) -> bytes:
    return call(name("torch.distributed.checkpoint.metadata", kind)) + dict_(fields) + b"b"


def _size(*sizes: int) -> bytes:
    return call(name("torch", "Size"), tuple_(*map(integer, sizes)))


def _place(offsets: bytes, length: int, file: str = "__0_0.distcp") -> bytes:
    """One entry of storage_data: a key and where its bytes are."""
    key = _object("MetadataIndex", fqn=text(MEAN), offset=offsets)
    fields = {"relative_path": text(file), "offset": integer(0), "length": integer(length)}
    return key + _object("_StorageInfo", **fields)


def _one_tensor(size: bytes, chunks: bytes) -> bytes:
    return dict_({MEAN: _object("TensorStorageMetadata", size=size, chunks=chunks)})


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
    offsets = [_size(number * (2**61 - 1)) for number in range(many(40_000))]
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


# --- links --------------------------------------------------------------------------------------


def _elsewhere(folder: Path) -> Path:
    """Somebody's private checkpoint, in a folder beside that of the case."""
    private = folder.parent / "private"
    private.mkdir(exist_ok=True)
    return private


def _shards(folder: Path) -> Path:
    """An index and its shard, with the right numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = zoo.statistics()
    safetensors.torch.save_file(tensors, folder / "shard.safetensors")
    weight_map = dict.fromkeys(tensors, "shard.safetensors")
    return file(
        folder, json.dumps({"weight_map": weight_map}).encode(), "model.safetensors.index.json"
    )


def _lead_out(folder: Path, *names: str) -> None:
    """Move these into the private folder, and leave links."""
    private = _elsewhere(folder)
    for link in names:
        os.replace(folder / link, private / link)
        (folder / link).symlink_to(private / link)


def _distributed_link(folder: Path, links: tuple[str, ...]) -> Path:
    _distributed(folder)
    _lead_out(folder, *links)
    return folder


for _name, _links in (
    ("chunks", ("__0_0.distcp",)),
    ("metadata", (".metadata",)),
    ("all", (".metadata", "__0_0.distcp")),
):
    add(f"link-distributed-{_name}", REFUSED, "a distributed checkpoint with links out of it",
        partial(_distributed_link, links=_links))  # fmt: skip


def _shards_link(folder: Path, links: tuple[str, ...], whole: bool) -> Path:
    index = _shards(folder)
    _lead_out(folder, *links)
    return folder if whole else index


_INDEX, _SHARD = "model.safetensors.index.json", "shard.safetensors"
for _name, _links, _whole in (
    ("shard", (_SHARD,), True),
    ("index", (_INDEX,), True),
    ("index-and-shard", (_INDEX, _SHARD), True),
    ("named-index-and-shard", (_INDEX, _SHARD), False),
):
    add(f"link-{_name}", REFUSED, "shards in a folder that are links out of it",
        partial(_shards_link, links=_links, whole=_whole))  # fmt: skip


@case(REFUSED, "a folder whose only model is a link out of it")
def link_single_file(folder: Path) -> Path:
    safetensors.torch.save_file(zoo.statistics(), folder / "model.safetensors")
    _lead_out(folder, "model.safetensors")
    return folder


def _cache(folder: Path, snapshot: str, blobs: str) -> Path:
    """As the Hugging Face cache: the files of a snapshot are links to blobs."""
    home = folder / snapshot
    _shards(home)
    (folder / blobs).mkdir(parents=True)
    for entry in sorted(home.iterdir()):
        blob = folder / blobs / entry.name.encode().hex()
        os.replace(entry, blob)
        entry.symlink_to(os.path.relpath(blob, home))
    return home


for _name, _codes, _snapshot, _where in (
    ("honest", READ, "repo/snapshots/0123", "repo/blobs"),
    ("honest-deep", READ, "repo/snapshots/0123/unet", "repo/blobs"),
    ("honest-twice", READ, "snapshots/snapshots/0123", "snapshots/blobs"),
    ("another-repository", REFUSED, "repo/snapshots/0123", "other/blobs"),
    ("no-snapshots", REFUSED, "repo/models/0123", "repo/blobs"),
    ("no-revision", REFUSED, "repo/snapshots", "repo/blobs"),
    ("below-blobs", REFUSED, "repo/snapshots/0123", "repo/blobs/private"),
):
    add(f"cache-{_name}", _codes, "links of a snapshot of the Hugging Face cache, or like it",
        partial(_cache, snapshot=_snapshot, blobs=_where), weights=_codes is READ)  # fmt: skip


@case(REFUSED, "blobs that are a link to somebody's private folder")
def cache_linked_blobs(folder: Path) -> Path:
    home = _cache(folder, "repo/snapshots/0123", "repo/blobs")
    os.replace(folder / "repo" / "blobs", _elsewhere(folder) / "blobs")
    (folder / "repo" / "blobs").symlink_to(_elsewhere(folder) / "blobs")
    return home


@case(READ, "a link to a folder, named by the user", weights=True)
def link_to_a_whole_folder(folder: Path) -> Path:
    _shards(folder / "real")
    (folder / "latest").symlink_to("real")
    return folder / "latest"


@case(READ, "links that stay in the folder", weights=True)
def link_inside(folder: Path) -> Path:
    index = _shards(folder)
    (folder / "sub").mkdir()
    os.replace(folder / "shard.safetensors", folder / "sub" / "shard")
    (folder / "shard.safetensors").symlink_to("sub/shard")
    return index
