"""Archives of arrays against what numpy finds in them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bncheck.core.errors import BncheckError
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint
from bncheck.reading.opening import open_checkpoint

_LAYER = {"bn.running_mean": [0.5, 0.25], "bn.running_var": [2.0, 3.0]}


def _archive(path: Path, records: dict[str, list[float]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, numbers in records.items():
            stream = io.BytesIO()
            np.save(stream, np.array(numbers))
            archive.writestr(name, stream.getvalue())
    return path


def test_an_array_without_the_ending_is_one(tmp_path: Path) -> None:
    """numpy goes by the first bytes of a record."""
    records = {"bn.running_mean.npy": [0.5, 0.25], "bn.running_var": [-2.0, 3.0]}
    path = _archive(tmp_path / "net.npz", records)
    found = open_checkpoint(path).tensors
    with np.load(path) as loaded:
        assert found.keys() == {*loaded}
        for name in found:
            np.testing.assert_array_equal(found[name], loaded[name])


def test_of_two_arrays_of_one_name_none_is_taken(tmp_path: Path) -> None:
    records = {f"{name}.npy": numbers for name, numbers in _LAYER.items()}
    path = _archive(tmp_path / "net.npz", {**records, "bn.running_var": [-2.0, 3.0]})
    with np.load(path) as loaded:
        assert loaded["bn.running_var"][0] == -2
    with pytest.raises(BncheckError, match=r"holds two arrays called 'bn\.running_var'"):
        open_checkpoint(path)


def test_records_that_another_loader_may_read_are_refused(tmp_path: Path) -> None:
    """Keras reads the weights of a .keras file from its HDF5, whatever arrays lie beside it."""
    path = _archive(tmp_path / "net.keras", {f"{n}.npy": numbers for n, numbers in _LAYER.items()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    with pytest.raises(BncheckError, match=r"'model\.weights\.h5', which is none"):
        open_checkpoint(path)


def test_a_size_that_is_true_is_refused(tmp_path: Path) -> None:
    """numpy's header check takes it for an integer, and the array then fails."""
    path = _archive(tmp_path / "net.npz", {"bn.running_mean.npy": [0.5], "bn.running_var.npy": [1]})
    data = path.read_bytes().replace(b"(1,), }   ", b"(True,), }")
    path.write_bytes(data)
    with pytest.raises(BncheckError, match="impossible shape"):
        open_checkpoint(path)


def test_bytes_without_a_type_are_no_numbers(tmp_path: Path) -> None:
    """As numpy saves the bfloat16 of ml_dtypes: `|V2`, which it does not read as numbers either."""
    layer = {name: np.array(numbers) for name, numbers in _LAYER.items()}
    half = np.array([1, 2], np.float16).view("V2")
    np.savez(tmp_path / "net.npz", allow_pickle=False, **{**layer, "bn.running_var": half})
    with pytest.raises(BncheckError, match="an array of a kind that bncheck does not read"):
        inspect_checkpoint(open_checkpoint(tmp_path / "net.npz"), InspectOptions())
