"""Files of `torch.save`: the zip archive, the older legacy layout, and plain pickles with tensors.

Legacy: five pickles (magic number, protocol, system, object, storage keys), then for each key an
int64 element count and the raw bytes: `torch.serialization._legacy_save`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_PICKLE_BYTES
from bncheck.reading import inert
from bncheck.reading.dtypes import item_size
from bncheck.reading.pickle_values import StorageReference, Value
from bncheck.reading.references import References
from bncheck.reading.source import Source
from bncheck.reading.tensors import Storage
from bncheck.reading.torch_objects import TorchObjects, storage_dtype
from bncheck.reading.zip_archive import ZipArchive

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Pickled:
    """The object of a torch file, inert, and what reads its tensors."""

    root: Value
    objects: TorchObjects

    @property
    def budget(self) -> Budget:
        """That of the checkpoint."""
        return self.objects.budget


def read_zip(archive: ZipArchive, record: str = "data.pkl", data: str = "data/") -> Pickled:
    """One pickle of a torch archive; its storages are the records below `data`."""
    pickle = archive.read(record, MAX_PICKLE_BYTES)
    order = archive.read("byteorder", 64) if "byteorder" in archive else b"little"
    if order not in (b"little", b"big"):
        raise BncheckError("names an unknown byte order", "save it again with torch.save")

    def find(key: str, dtype: str, elements: int) -> Storage:
        if not archive.has_checksum(f"{data}{key}") and archive.has_checksum(record):
            raise BncheckError(
                "holds no numbers: it was saved within torch.serialization.skip_data",
                "fill it in, or save it again without",
            )
        storage = archive.storage(f"{data}{key}", order == b"big")
        _check_size(key, storage.source.size, elements * item_size(dtype))
        return storage

    root = inert.load(io.BytesIO(pickle), archive.budget, References(5))
    return Pickled(root, TorchObjects(archive.within(pickle), find, read_nested))


def read_legacy(source: Source) -> Pickled:
    """A file of `torch.save(..., _use_new_zipfile_serialization=False)`, torch before 1.6."""
    stream = source.stream(len(LEGACY_MAGIC))
    inert.load(stream, source.budget)  # the protocol, always 1001
    # The system. But torch wrote little-endian on big-endian machines, too.
    inert.load(stream, source.budget)
    references = References(6)
    root = inert.load(stream, source.budget, references)
    keys = inert.load(stream, source.budget)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BncheckError("is damaged: its list of storages is malformed", "download it again")
    storages: dict[str, Storage] = {}
    offset = stream.tell()
    for key in keys:
        first = references.first.get(key)
        if first is None or key in storages:
            raise BncheckError(f"is damaged: storage {key[:40]!r} is unknown", "download it again")
        length = first.elements * item_size(storage_dtype(first.kind))
        if int.from_bytes(source.read(offset, 8), "little", signed=True) != first.elements:
            raise BncheckError(
                f"is damaged: storage {key[:40]!r} does not have the size that its tensors say",
                "download it again",
            )
        storages[key] = Storage(source.window(offset + 8, length))
        offset += 8 + length

    def find(key: str, dtype: str, elements: int) -> Storage:
        if key not in storages:
            raise BncheckError(f"is damaged: storage {key[:40]!r} is missing", "download it again")
        return storages[key]

    return Pickled(root, TorchObjects(source, find, read_nested))


def read_plain(source: Source) -> Pickled:
    """A file of `pickle.dump`: tensors carry whole torch files, arrays their bytes."""

    def find(key: str, dtype: str, elements: int) -> Storage:
        raise BncheckError("refers to storages that it does not contain", "save it with torch.save")

    root = inert.load(source.stream(), source.budget, References(6))
    return Pickled(root, TorchObjects(source, find, read_nested))


def read_nested(source: Source) -> tuple[Storage, str]:
    """The one storage that a torch file inside a pickle (`_load_from_bytes`) consists of."""
    magic = source.head(len(LEGACY_MAGIC))
    if magic.startswith(ZIP_MAGIC):
        pickled = read_zip(ZipArchive(source))
    elif magic == LEGACY_MAGIC:
        pickled = read_legacy(source)
    else:
        raise BncheckError("holds a tensor in an unknown layout", "save it again")
    if not isinstance(pickled.root, StorageReference):
        raise BncheckError("holds a storage in an unknown layout", "save it again")
    return pickled.objects.storage(pickled.root)


def _check_size(key: str, have: int, need: int) -> None:
    if need != have:
        raise BncheckError(
            f"is damaged: storage {key[:40]!r} should hold {need:,} bytes and holds {have:,}",
            "download or save it again",
        )
