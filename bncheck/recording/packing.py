"""Snapshots as bytes of safetensors files: of the next, only metadata and numbers are made anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bncheck.core.errors import BncheckError
from bncheck.reading.safetensors_file import DTYPES

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

_CODES: Final = {name: code for code, name in DTYPES.items()}
_Form = tuple[tuple[str, Any, tuple[int, ...]], ...]


@dataclass
class Packer:
    """Knows the header of the files that it made before, by the tensors in them."""

    _headers: dict[_Form, tuple[list[str], str]] = field(default_factory=dict)

    def packed(self, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
        """One file. Raises BncheckError for numbers of a kind that such a file cannot hold."""
        form = tuple((name, a.dtype, a.shape) for name, a in tensors.items())
        if form not in self._headers:
            self._headers[form] = _header(tensors)
        order, rest = self._headers[form]
        header = f'{{"__metadata__":{json.dumps(metadata)}{rest}'.encode()
        header += b" " * (-len(header) % 8)  # numbers begin at a multiple of 8
        data = [tensors[name].tobytes() for name in order]
        return b"".join([len(header).to_bytes(8, "little"), header, *data])


def _header(tensors: Mapping[str, Array]) -> tuple[list[str], str]:
    """Widest numbers first, so that all lie at multiples of their size, then by name."""
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    told, start = {}, 0
    for name in order:
        array = tensors[name]
        code = _CODES.get(str(array.dtype))
        if code is None:
            raise BncheckError(f"cannot hold {array.dtype} ({name})", "record another model")
        span = [start, start + array.nbytes]
        told[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": span}
        start = span[1]
    entries = json.dumps(told, separators=(",", ":"))
    return order, f",{entries[1:]}" if told else "}"
