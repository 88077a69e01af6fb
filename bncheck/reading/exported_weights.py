"""The weights and constants of a `.pt2` archive: JSON that names raw records, or one torch file.

torch looks in one place for the weights and in one for the constants; an archive that has them in
two is refused. Schema: torch/_export/serde/schema.py (PayloadConfig), export/pt2_archive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bncheck.core.errors import BncheckError, quoted
from bncheck.reading.json_text import parse
from bncheck.reading.tensors import LazyTensor, LoadedTensor, StridedTensor
from bncheck.reading.torch_files import read_zip
from bncheck.reading.tree import find_subtrees
from bncheck.reading.zip_archive import ZipArchive

NEEDS_EXPORT: Final = "export it again with torch.export.save"
_WEIGHTS: Final = "data/weights/"
_CONSTANTS: Final = "data/constants/"

# torch/_export/serde/schema.py: ScalarType
DTYPES: Final = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}


def read_weights(archive: ZipArchive, model: str) -> dict[str, LazyTensor]:
    """The state dict of a program."""
    configs = [f"{_WEIGHTS}{model}_weights_config.json", f"{model}_weights_config.json"]
    return _read(archive, _WEIGHTS, f"{_WEIGHTS}{model}.pt", configs, required=True)


def read_constants(archive: ZipArchive, model: str) -> dict[str, LazyTensor]:
    """The tensors that its module held beside the state dict; custom objects are left out."""
    configs = [f"{_CONSTANTS}{model}_constants_config.json"]
    return _read(archive, _CONSTANTS, f"{_CONSTANTS}{model}.pt", configs, required=False)


def read_torch_file(archive: ZipArchive, record: str) -> dict[str, LazyTensor]:
    """The dict of tensors that a record, a whole file of torch.save, holds."""
    found = find_subtrees(read_zip(ZipArchive(archive.source(record))))
    return dict(found[0].tensors) if found and not found[0].path else {}


def read_json(archive: ZipArchive, name: str) -> dict[str, Any]:
    """A record of JSON whose value is an object."""
    value = parse(archive.text(name), archive.budget)
    if not isinstance(value, dict):
        raise TypeError
    return value


def _read(
    archive: ZipArchive, folder: str, torch_file: str, configs: list[str], required: bool
) -> dict[str, LazyTensor]:
    there = [name for name in (torch_file, *configs) if name in archive]
    if len(there) > 1:
        raise BncheckError(
            f"keeps the same tensors in {quoted(there[0])} and in {quoted(there[1])}, and torch "
            "takes one of them",
            f"do not trust it; {NEEDS_EXPORT}",
        )
    if not there:
        if required:
            raise BncheckError("is a .pt2 archive without weights", NEEDS_EXPORT)
        return {}
    if there[0] == torch_file:  # torch 2.7 and 2.8
        return read_torch_file(archive, torch_file)
    config: Mapping[str, Any] = read_json(archive, there[0])["config"]
    _refuse_two_dtypes(config)
    return {
        str(name): _tensor(archive, folder, entry)
        for name, entry in config.items()
        if entry.get("tensor_meta") is not None
    }


def _refuse_two_dtypes(config: Mapping[str, Any]) -> None:
    """torch reads each record once, in the dtype of the first tensor that lies in it."""
    dtypes: dict[str, Any] = {}
    for entry in config.values():
        if entry.get("use_pickle") or entry.get("tensor_meta") is None:
            continue
        record, dtype = str(entry["path_name"]), entry["tensor_meta"]["dtype"]
        if dtypes.setdefault(record, dtype) != dtype:
            raise BncheckError(f"reads its record {quoted(record)} in two dtypes", NEEDS_EXPORT)


def _tensor(archive: ZipArchive, folder: str, entry: dict[str, Any]) -> LazyTensor:
    if entry.get("use_pickle"):
        return LoadedTensor(_refuse_pickle)
    meta = entry["tensor_meta"]
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise BncheckError(f"holds a tensor of the unknown dtype {meta['dtype']!r}", NEEDS_EXPORT)
    return StridedTensor(
        archive.storage(f"{folder}{entry['path_name']}"),
        dtype,
        tuple(_integer(size) for size in meta["sizes"]),
        tuple(_integer(stride) for stride in meta["strides"]),
        _integer(meta["storage_offset"]),
    )


def _refuse_pickle() -> Any:
    raise BncheckError(
        "keeps a weight as a pickle (use_pickle), which loading would have to execute",
        NEEDS_EXPORT,
    )


def _integer(value: Any) -> int:
    number = value["as_int"]
    if not isinstance(number, int):
        raise TypeError
    return number
