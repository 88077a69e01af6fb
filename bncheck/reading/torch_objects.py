"""What the nodes of an inert pickle mean in torch: storages, tensors and arrays.

torch writes a tensor as a call of one of `torch._utils._rebuild_*`, whose first arguments are its
storage (a persistent id), offset, shape and strides:
https://github.com/pytorch/pytorch/blob/main/torch/_utils.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.reading.calls import ARRAY_MODULES, BYTES
from bncheck.reading.dtypes import dtype_name, is_known_dtype, item_size, unknown_dtype
from bncheck.reading.nodes import encoded
from bncheck.reading.pickle_values import (
    Global,
    Node,
    OpaqueTensor,
    Span,
    StorageReference,
    TensorView,
    Value,
)
from bncheck.reading.rebuilding import LOAD_FROM_BYTES, integers
from bncheck.reading.source import Source
from bncheck.reading.tensors import (
    LazyTensor,
    LoadedTensor,
    Storage,
    StridedTensor,
    checked_shape,
)

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: Gives the bytes behind a storage reference: (key, dtype name, element count) -> Storage.
FindStorage: TypeAlias = Callable[[str, str, int], Storage]

#: Gives the storage that a whole torch file, embedded in a plain pickle, consists of.
FindNested: TypeAlias = Callable[[Source], "tuple[Storage, str]"]

_NUMPY_CODES: Final = {
    "b1",
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
}
#: torch's storages of numbers; those of quantised ones are not read.
_STEMS: Final = frozenset(
    (
        *("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"),
        *("ComplexFloat", "ComplexDouble", "QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4"),
    )
)
_NUMPY_DTYPE: Final = Global("numpy", "dtype")
_NDARRAY: Final = Global("numpy", "ndarray")


class TorchObjects:
    """Reads the nodes of one pickle; `pickle` is where its byte strings are."""

    def __init__(self, pickle: Source, find_storage: FindStorage, find_nested: FindNested) -> None:
        self._pickle = pickle
        self.budget = pickle.budget
        self._find_storage = find_storage
        self._find_nested = find_nested
        self._nested: dict[Span | int, tuple[Storage, str]] = {}

    def tensor(self, value: Value) -> LazyTensor | None:
        """The tensor that a value describes, or None for anything else.

        Raises BncheckError for one that says it is a tensor and cannot be one.
        """
        if isinstance(value, TensorView):
            return self._strided(value)
        if isinstance(value, OpaqueTensor):
            return _unreadable(value.flaw)
        try:
            return self._array(value)
        except (IndexError, TypeError, ValueError):
            raise BncheckError(
                "holds a malformed description of a tensor", "save it again"
            ) from None

    def _strided(self, view: TensorView) -> LazyTensor:
        if view.flaw is not None:
            return _unreadable(view.flaw)
        if isinstance(view.storage, StorageReference) and view.storage.flaw is not None:
            return _unreadable(view.storage.flaw)
        storage, own = self.storage(view.storage)
        dtype = own
        if view.dtype is not None:
            if not is_known_dtype(view.dtype):  # torch.float4_e2m1fn_x2, torch.uint3...
                return LoadedTensor(partial(unknown_dtype, view.dtype))
            dtype = dtype_name(view.dtype)
            if storage.big_endian and dtype != own and item_size(dtype) > 1:
                return _unreadable(_swapped())  # torch swaps the bytes of the storage's own dtype
        return StridedTensor(storage, dtype, view.shape, view.strides, view.offset)

    def storage(self, value: Value) -> tuple[Storage, str]:
        """A storage and its dtype from its reference or, in a plain pickle, its bytes."""
        if isinstance(value, StorageReference):
            dtype = storage_dtype(value.kind)
            storage = self._find_storage(value.key, dtype, value.elements)
            if value.view is not None:
                storage = storage.part(*value.view, item_size(dtype))
            return storage, dtype
        if isinstance(value, Node) and value.is_call_of({LOAD_FROM_BYTES}) and value.args:
            data = value.args[0]
            place = data if isinstance(data, Span) else id(data)
            if place not in self._nested:  # tensors may share it
                self._nested[place] = self._find_nested(self._bytes_source(data))
            return self._nested[place]
        raise BncheckError("holds a malformed description of a tensor", "save it again")

    def _bytes_source(self, value: Value) -> Source:
        if isinstance(value, Span):
            return self._pickle.window(value.offset, value.length)
        return self._pickle.within(self._raw(value))

    def _raw(self, value: Value) -> bytes:
        if isinstance(value, Span):
            return self._pickle.numbers(value.offset, value.length)
        if isinstance(value, str):  # a Python 2 str that happened to be text
            return value.encode()
        if isinstance(value, bytes):
            return value
        if (data := encoded(value)) is not None:
            return data
        if isinstance(value, Node) and value.is_call_of(BYTES):
            if not value.args:
                return b""
            if isinstance(value.args[0], (bytes, Span)) and len(value.args) == 1:
                return self._raw(value.args[0])
        raise BncheckError("holds an array without its bytes", "save it again")

    def _array(self, value: Value) -> LazyTensor | None:
        """A NumPy array: `_reconstruct(...)` with a state, `_frombuffer(...)` or a scalar."""
        if not isinstance(value, Node) or not isinstance(value.function, Global):
            return None
        module, name = value.function
        if module not in ARRAY_MODULES:
            return None
        if name == "_reconstruct" and isinstance(value.state, tuple):
            _, shape, dtype, fortran, raw = value.state
            known = value.args[0] == _NDARRAY
        elif name == "_frombuffer":
            raw, dtype, shape, order = value.args
            fortran = order == "F"
            known = order in ("C", "F") and value.state is None
        elif name == "scalar" and len(value.args) == 2:
            (dtype, raw), shape, fortran = value.args, (), False
            known = value.state is None
        else:
            return _unreadable(_unknown_array())
        code = _numpy_code(dtype)
        if code is None or not known:
            return _unreadable(_unknown_array())
        sizes = checked_shape(integers(shape))
        return LoadedTensor(lambda: _to_array(self._bytes(raw), code, sizes, bool(fortran)), sizes)

    def _bytes(self, value: Value) -> bytes:
        try:
            return self._raw(value)
        except ValueError:  # text whose characters are not bytes
            raise BncheckError("holds an array without its bytes", "save it again") from None


@lru_cache(maxsize=64)  # asked for every tensor, and there are a dozen
def storage_dtype(kind: str) -> str:
    """`FloatStorage` -> float32. Raises BncheckError for a storage that torch does not have."""
    if kind == "UntypedStorage":
        return "uint8"
    stem = kind.removesuffix("Storage")
    special = {"BFloat16": "bfloat16", "ComplexFloat": "complex64", "ComplexDouble": "complex128"}
    if stem == kind or stem not in _STEMS:
        unknown_dtype(stem)
    return dtype_name(special.get(stem, stem.lower()))


def _unreadable(flaw: BncheckError) -> LoadedTensor:
    def load() -> Array:
        raise BncheckError(flaw.sentence, flaw.hint)

    return LoadedTensor(load)


def _swapped() -> BncheckError:
    return BncheckError(
        "holds big-endian numbers that torch would swap wrongly",
        "save it again on a little-endian machine",
    )


def _unknown_array() -> BncheckError:
    return BncheckError("holds an array of a kind that bncheck does not read", "save plain numbers")


def _numpy_code(dtype: Value) -> str | None:
    """`numpy.dtype('f4', ...)` with state (3, '<', ...) -> '<f4'; None for records and objects."""
    if not isinstance(dtype, Node) or dtype.function != _NUMPY_DTYPE or not dtype.args:
        return None
    code, state = dtype.args[0], dtype.state
    if not isinstance(code, str) or code not in _NUMPY_CODES:
        return None
    if state is None:
        return code
    if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
        return None
    order = state[1]
    if order in ("<", ">"):
        return f"{order}{code}"
    return code if order in ("=", "|") else None


def _to_array(raw: bytes, code: str, shape: tuple[int, ...], fortran: bool) -> Array:
    import numpy as np

    dtype = np.dtype(code)
    if len(raw) != dtype.itemsize * math.prod(shape):
        raise BncheckError("holds an array whose bytes do not fit its shape", "save it again")
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype=dtype.newbyteorder("="))
