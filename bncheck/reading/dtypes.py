"""torch's dtypes by the names that NumPy and ml_dtypes have for them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    import numpy as np

#: torch's dtype names whose NumPy name is another; ml_dtypes gives NumPy the small floats.
_NUMPY_NAMES = {
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "char": "int8",
    "byte": "uint8",
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "cfloat": "complex64",
    "cdouble": "complex128",
    "qint8": "int8",
    "quint8": "uint8",
    "qint32": "int32",
    "quint4x2": "uint8",
    "quint2x4": "uint8",
}

_ITEM_SIZES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}


def is_known_dtype(torch_name: str) -> bool:
    """Whether NumPy or ml_dtypes has a counterpart of a torch dtype."""
    return _NUMPY_NAMES.get(torch_name, torch_name) in _ITEM_SIZES


def unknown_dtype(torch_name: str) -> NoReturn:
    """Refuse a dtype without a counterpart."""
    raise BncheckError(
        f"holds a tensor of the dtype {torch_name[:40]!r}, which has no NumPy counterpart",
        "save the weights as float32",
    )


def dtype_name(torch_name: str) -> str:
    """NumPy's (or ml_dtypes') name for a torch dtype; raises BncheckError for an unknown one."""
    if not is_known_dtype(torch_name):
        unknown_dtype(torch_name)
    return _NUMPY_NAMES.get(torch_name, torch_name)


def item_size(name: str) -> int:
    """Bytes of one element."""
    return _ITEM_SIZES[name]


@lru_cache(maxsize=64)
def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The dtype of that name, with ml_dtypes' small floats where NumPy has none."""
    import numpy as np

    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return dtype
    return np.dtype(name)
