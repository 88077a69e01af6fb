"""The wire format of protobuf, walked before anything is parsed.

Nothing marks an ONNX file, and protobuf accepts nearly anything; an empty message takes two bytes
of file and 160 of memory. So a file is looked at field by field first.
https://protobuf.dev/programming-guides/encoding/, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_ONNX_FIELDS
from bncheck.reading.source import Source

_GRAPH: Final = 7
_LAST_FIELD: Final = 30
#: ModelProto has a dozen fields; a file with more is something else.
_MOST_TOP_FIELDS: Final = 10_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS: Final = {_FIXED64: 8, _FIXED32: 4}

#: Field numbers of a message that are messages themselves; in the others lie texts and numbers.
Schema: TypeAlias = "dict[int, Schema]"
_LEAF: Final[Schema] = {}
_VALUE_INFO: Final[Schema] = {2: {1: {2: {1: _LEAF}}}, 4: _LEAF}
_TENSOR: Final[Schema] = {13: _LEAF, 16: _LEAF}
_SPARSE: Final[Schema] = {1: _TENSOR, 2: _TENSOR}
_GRAPH_FIELDS: Final[Schema] = {}
_ATTRIBUTE: Final[Schema] = {
    5: _TENSOR,
    6: _GRAPH_FIELDS,
    10: _TENSOR,
    11: _GRAPH_FIELDS,
    14: _VALUE_INFO[2],
    15: _VALUE_INFO[2],
    22: _SPARSE,
    23: _SPARSE,
}
_NODE: Final[Schema] = {5: _ATTRIBUTE, 9: _LEAF}
_GRAPH_FIELDS.update(
    {1: _NODE, 5: _TENSOR, **dict.fromkeys((11, 12, 13), _VALUE_INFO), 14: {2: _LEAF}, 15: _SPARSE}
)
_FUNCTION: Final[Schema] = {7: _NODE, 9: _LEAF, 11: _ATTRIBUTE, 12: _VALUE_INFO}
_MODEL: Final[Schema] = {
    7: _GRAPH_FIELDS,
    8: _LEAF,
    14: _LEAF,
    20: {1: _GRAPH_FIELDS, 2: _GRAPH_FIELDS},
    25: _FUNCTION,
}


def has_graph(source: Source) -> bool:
    """Walk the top-level fields, a few bytes each, and look for ModelProto's graph.

    Reading gigabytes of something else to find out is no way.
    """
    position, graph = 0, False
    for _ in range(_MOST_TOP_FIELDS):
        if position >= source.size:
            break
        head = source.read(position, min(20, source.size - position))
        tag, used = varint(head, 0)
        field, kind = tag >> 3, tag & 7
        value, end = varint(head, used)
        if not 1 <= field <= _LAST_FIELD or kind not in (_VARINT, _BYTES) or end == 0:
            return False
        graph |= field == _GRAPH and kind == _BYTES
        position += end + (value if kind == _BYTES else 0)
    return graph and position == source.size


def check_size(data: bytes) -> None:
    """Refuse an ONNX model of more messages and texts than any network has."""
    count = 0
    stack: list[tuple[int, int, Mapping[int, Schema]]] = [(0, len(data), _MODEL)]
    while stack:
        position, end, schema = stack.pop()
        while position < end:
            count += 1
            if count > MAX_ONNX_FIELDS:
                raise BncheckError(
                    f"is an ONNX model of more than {MAX_ONNX_FIELDS:,} fields "
                    "(limit MAX_ONNX_FIELDS)",
                    "check where it is from",
                )
            tag, position = varint(data, position)
            kind = tag & 7
            if kind == _VARINT:
                _, position = varint(data, position)
            elif kind == _BYTES:
                length, position = varint(data, position)
                if (inner := schema.get(tag >> 3)) is not None:
                    stack.append((position, min(position + length, end), inner))
                position += length
            else:
                position += _WIDTHS.get(kind, end)
            if not position:  # no number: the parser will say so
                return


def varint(data: bytes, start: int) -> tuple[int, int]:
    """A protobuf number and where it ends; the end is 0 where there is none."""
    if start < len(data) and data[start] < 0x80:
        return data[start], start + 1
    value = 0
    for index, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, start + index + 1
    return 0, 0
