"""Accidents, and archives that are not what they seem."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from tests.hostile.case import ANY, REFUSED, add, case, file, pack, records_of, saved
from tests.hostile.payloads import PAYLOADS

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
    add(_name, REFUSED, _what, partial(file, data=_data))

add("lfs-pointer-safetensors", REFUSED, "the same under another name",
    partial(file, data=_LFS, name="model.safetensors"))  # fmt: skip
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


def _cut(folder: Path, part: float, legacy: bool = False) -> Path:
    path = saved(folder, legacy=legacy)
    data = path.read_bytes()
    return file(folder, data[: int(len(data) * part)])


for _part in (0.1, 0.5, 0.99):
    add(f"zip-cut-at-{_part}", REFUSED, "an interrupted download", partial(_cut, part=_part))
    add(f"legacy-cut-at-{_part}", REFUSED, "the same of a legacy file",
        partial(_cut, part=_part, legacy=True))  # fmt: skip


@case(REFUSED, "unpacked and packed again with compression: torch's mmap reads garbage")
def zip_deflated(folder: Path) -> Path:
    return pack(folder / "model.pt", records_of(saved(folder)), deflate=lambda record: True)


@case(REFUSED, "a deflated data.pkl that inflates to 100 MB")
def zip_bomb_pickle(folder: Path) -> Path:
    records = {"m/data.pkl": b"\x80\x02" + b"N0" * 50_000_000, "m/version": b"3\n"}
    return pack(folder / "model.pt", records, deflate=lambda record: record.endswith("data.pkl"))


@case(REFUSED, "a deflated storage that inflates to 100 MB")
def zip_bomb_storage(folder: Path) -> Path:
    records = records_of(saved(folder)) | {"saved/data/2": bytes(100_000_000)}
    return pack(folder / "model.pt", records, deflate=lambda record: record.endswith("data/2"))


def _flip(folder: Path, record: str, xor: int = 0x40) -> Path:
    data = bytearray(saved(folder).read_bytes())
    content = records_of(folder / "saved.pt")[record]
    data[data.index(content) + len(content) // 2] ^= xor
    return file(folder, bytes(data))


add("bad-checksum-of-pickle", REFUSED, "a flipped bit in data.pkl",
    partial(_flip, record="saved/data.pkl"))  # fmt: skip
add("bad-checksum-of-storage", REFUSED, "a flipped bit in the running mean",
    partial(_flip, record="saved/data/2"))  # fmt: skip


def append(path: Path, record: str, times: int) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # zipfile says that the name is a duplicate: it should be
        for _ in range(times):
            archive.writestr(record, b"\x80\x02}.")
    return path


def _duplicate(folder: Path, name: str) -> Path:
    path = saved(folder)
    return append(path, name, 1)


for _name, _key in {
    "zip-two-pickles": "saved/data.pkl",
    "zip-two-storages": "saved/data/0",
    "zip-two-pickles-in-two-folders": "other/data.pkl",
}.items():
    add(_name, REFUSED, "torch reads the first, Python's zipfile the last",
        partial(_duplicate, name=_key))  # fmt: skip


@case(REFUSED, "the directory calls a record data/2 that calls itself data/x")
def zip_names_disagree(folder: Path) -> Path:
    data = saved(folder).read_bytes()
    return file(folder, data.replace(b"saved/data/2", b"saved/data/x", 1))


@case(REFUSED, "the directory places every record beyond the end of the file")
def zip_sizes_lie(folder: Path) -> Path:
    data = bytearray(saved(folder).read_bytes())
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<II", data, at + 20, 0x7FFFFFF0, 0x7FFFFFF0)
    return file(folder, bytes(data))


@case(REFUSED, "the flag of encryption, which scanners skip and torch ignores")
def zip_encrypted_flag(folder: Path) -> Path:
    data = bytearray(saved(folder).read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 8, 1)
    return file(folder, bytes(data))


def _polyglot(folder: Path, before: bytes, after: bytes) -> Path:
    return file(folder, before + saved(folder).read_bytes() + after)


for _name, _codes, _before, _after in (
    ("pickle-before-zip", ANY, PAYLOADS["reduce"], b""),
    ("page-before-zip", REFUSED, b"<html>", b""),
    ("header-before-zip", REFUSED, struct.pack("<Q", 2) + b"{}", b""),
    ("pickle-after-zip", ANY, b"", PAYLOADS["reduce"]),
    ("zip-after-zip", ANY, b"", b"PK\x05\x06" + bytes(18)),
):
    add(f"polyglot-{_name}", _codes, "a file that is two things at once",
        partial(_polyglot, before=_before, after=_after))  # fmt: skip


def _links_to(folder: Path, target: str) -> Path:
    (folder / "model.pt").symlink_to(target)
    return folder / "model.pt"


for _name, _target in {"device": "/dev/zero", "nowhere": "absent", "process": "/proc/self/mem",
                       "terminal": "/dev/tty", "folder": "."}.items():  # fmt: skip
    add(f"link-to-{_name}", REFUSED, f"a link to {_target}", partial(_links_to, target=_target))
