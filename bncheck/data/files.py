"""Files of arrays: .npz, .npy, .pt, .safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bncheck.core import usercode
from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_EXPANDED_BYTES, MAX_INFLATED_DATA_BYTES
from bncheck.core.words import a_kind
from bncheck.data.batches import Batch, DataOptions
from bncheck.data.preparing import as_tensor, prepared_input
from bncheck.reading.source import Source
from bncheck.reading.torch_files import ZIP_MAGIC
from bncheck.reading.zip_archive import ZipArchive

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: What people call labels and inputs.
LABELS: Final = ("y", "label", "labels", "target", "targets")
INPUTS: Final = ("x", "image", "images", "input", "inputs", "data")


def read_arrays(path: Path) -> dict[str, Any]:
    """Everything with numbers in a file, by name."""
    readers = {
        ".npz": _read_npz,
        ".npy": _read_npy,
        ".pt": _read_pt,
        ".pth": _read_pt,
        ".safetensors": _read_safetensors,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise BncheckError(
            f"is not a data file that bncheck knows (its name ends in {path.suffix or 'nothing'})",
            "give .npz, .npy, .pt, .safetensors, a folder of images or TARGET:CALLABLE",
            str(path),
        )
    try:
        return reader(path)
    except BncheckError as error:
        raise error.about(str(path)) from None
    except Exception as error:
        reason = usercode.described(error)
        raise BncheckError(f"cannot be read ({reason})", "check the file", str(path)) from None


def _read_npz(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        size = sum(record.file_size for record in archive.zip.infolist())
        if size > path.stat().st_size + MAX_INFLATED_DATA_BYTES:
            raise BncheckError(
                f"holds {size:,} bytes when inflated (limit MAX_INFLATED_DATA_BYTES)",
                "save it with numpy.savez, or as .npy, which is read only as far as needed",
            )
        return {name: archive[name] for name in archive.files}


def _read_npy(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.errstate(over="ignore"):  # of a shape beyond reason, which is then refused
        return {"x": np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_pt(path: Path) -> dict[str, Any]:
    import torch

    source = Source.open(path, Budget())
    mapped = source.head(len(ZIP_MAGIC)) == ZIP_MAGIC  # not the layout of before torch 1.6
    if mapped:
        archive = ZipArchive(source)
        for record in archive.names:
            archive.source(record)  # refuses what was compressed
    value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    arrays = _named(value)
    for name, array in arrays.items():
        if isinstance(array, torch.Tensor) and array.layout is torch.strided:
            size = array.numel() * array.element_size()
            if size > max(array.untyped_storage().nbytes(), MAX_EXPANDED_BYTES):
                raise BncheckError(
                    f"expands {name} to {size:,} bytes (limit MAX_EXPANDED_BYTES)",
                    "save it as it is, without expand()",
                )
    return arrays


def _named(value: object) -> dict[str, Any]:
    """What was saved, by name: a tensor, (x, y) or a dict."""
    import torch

    if isinstance(value, torch.Tensor):
        return {"x": value}
    if isinstance(value, (tuple, list)):
        names = ["x", "y"] if len(value) == 2 else [f"x{i}" for i in range(len(value))]
        return dict(zip(names, value, strict=True))
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    raise BncheckError(f"holds {a_kind(value)}", "save a tensor, (x, y) or a dict")


class _SafetensorsRows:
    """A tensor in a safetensors file, of which only the rows asked for are read."""

    def __init__(self, opened: Any, name: str) -> None:
        self._slice = opened.get_slice(name)
        self.shape = tuple(self._slice.get_shape())
        self.ndim = len(self.shape)

    def __getitem__(self, indices: Any) -> Any:
        import torch

        return torch.stack([self._slice[int(index)] for index in indices])


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    opened = safe_open(path, framework="pt")  # stays open: its tensors are views of the file
    return {name: _SafetensorsRows(opened, name) for name in _names(opened)}


def _names(opened: Any) -> list[str]:
    return list(opened.keys())


class Arrays:
    """Arrays whose first dimension counts the samples."""

    def __init__(self, arrays: Mapping[str, Any], name: str, options: DataOptions) -> None:
        self._options = options
        self._name = name
        numeric = {key: value for key, value in arrays.items() if _is_numeric(value)}
        if not numeric:
            raise BncheckError(
                "holds no arrays of numbers",
                "it needs an array x; batches come from --data TARGET:CALLABLE",
                name,
            )
        label = next((key for key in LABELS if key in numeric), None)
        wordy = next((key for key in LABELS if key in arrays), None)
        if label is None and wordy is not None:
            raise BncheckError(
                f"holds labels ({wordy}) that are not an array of numbers",
                "save class numbers, or leave them out",
                name,
            )
        inputs = {key: value for key, value in numeric.items() if key != label}
        preferred = next((key for key in INPUTS if key in inputs), None)
        if preferred is not None:
            rows = inputs[preferred].shape[0]
            if preferred == "x" or len(inputs) == 1:
                inputs = {preferred: inputs[preferred]}
        elif inputs:
            rows = next(iter(inputs.values())).shape[0]
        else:
            raise BncheckError("holds only labels", "it needs an array x", name)
        self._inputs = {key: value for key, value in inputs.items() if value.shape[0] == rows}
        self._target = numeric[label] if label is not None else None
        if self._target is not None and self._target.shape[0] != rows:
            raise BncheckError(
                f"holds {rows} samples and {self._target.shape[0]} labels",
                "make the numbers match",
                name,
            )
        self._rows = int(rows)

    def __len__(self) -> int:
        return self._rows

    def pick(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        """The rows at these places."""
        inputs = {key: self._input(value[indices]) for key, value in self._inputs.items()}
        target = None if self._target is None else as_tensor(self._target[indices])
        if len(inputs) == 1:
            return Batch((next(iter(inputs.values())),), {}, target)
        return Batch((), inputs, target)

    def _input(self, rows: Any) -> Tensor:
        return prepared_input(as_tensor(rows), self._name, self._options)


def _is_numeric(value: Any) -> bool:
    """Whether these are samples: dense numbers, and some in each."""
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        numbers = value.dtype.kind in "biuf"
    elif isinstance(value, torch.Tensor):
        numbers = value.layout is torch.strided and not value.is_meta
    else:
        numbers = isinstance(value, _SafetensorsRows)
    return numbers and value.ndim > 0 and 0 not in value.shape[1:]
