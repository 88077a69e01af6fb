"""The bytes of an ONNX model without the numbers of its large weights, which stay in the file.

A model is one protobuf message, and most of it is `raw_data` of initialisers, which few layers
need. Each that can be left where it is becomes external data, at a place in the file itself.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from bncheck.core.limits import MAX_ONNX_FIELDS
from bncheck.reading.protobuf import field_head, varint
from bncheck.reading.source import Source

_VARINT, _BYTES = 0, 2
_GRAPH: Final = 7  # of ModelProto
_INITIALIZER: Final = 5  # of GraphProto
_RAW: Final = 9  # of TensorProto
#: Its dims, data_type, name, raw_data and doc_string.
_PLAIN: Final = frozenset((1, 2, 8, _RAW, 12))
#: Bytes of a number, by TensorProto.DataType: those that numpy has.
ITEM_BYTES: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 10: 2, 11: 8, 12: 4, 13: 8}
#: Shapes and settings are small; so are the numbers that a graph computes with beside its weights.
KEPT_BYTES: Final = 1 << 14
#: Each dimension is a field, and no honest tensor has half as many.
_MOST_PLAIN_FIELDS: Final = 64
#: A field begins with two numbers of at most ten bytes.
_HEAD: Final = 20
#: As much is read at once to find where fields begin.
_BLOCK: Final = 1 << 12
#: A smaller file is read whole.
_LEAST_BYTES: Final = 1 << 20
#: What is read at once of a tensor without its numbers: more is not one of an honest writer.
_MOST_HEAD: Final = 1 << 12


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message: where it begins, and where its content begins and ends."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def without_weights(source: Source, location: str) -> bytes:
    """The model with its large weights as external data of `location`; whole where in doubt.

    The place in `source` is their offset. Nobody but the caller may know `location`: a file that
    names it could point anywhere in itself.
    """
    return thinned(source, location) or source.numbers(0, source.size)


def thinned(source: Source, location: str) -> bytes | None:
    """The same, None where it would be whole."""
    fields = _fields(source, 0, source.size) if source.size >= _LEAST_BYTES else ()
    graphs = [f for f in fields or () if f.number == _GRAPH]
    if len(graphs) != 1 or graphs[0].kind != _BYTES:  # of two a parser makes one
        return None
    pieces = _pieces(source, graphs[0], location)
    if pieces is None:
        return None
    graph = b"".join(pieces)
    head, tail = graphs[0].start, graphs[0].end
    before, after = source.numbers(0, head), source.numbers(tail, source.size - tail)
    return b"".join((before, _message(_GRAPH, graph), after))


def _pieces(source: Source, graph: _Field, location: str) -> list[bytes] | None:
    """The fields of a graph, those between large weights read as one; None where in doubt."""
    large = _fields(source, graph.content, graph.end, least_bytes=KEPT_BYTES + 1)
    if large is None:
        return None
    pieces: list[bytes] = []
    start = graph.content
    for field in large:
        thin = _thin(source, field, location) if field.number == _INITIALIZER else None
        if thin is not None:
            pieces += [source.numbers(start, field.start - start), _message(_INITIALIZER, thin)]
            start = field.end
    return [*pieces, source.numbers(start, graph.end - start)]


def _thin(source: Source, tensor: _Field, location: str) -> bytes | None:
    """A tensor with its numbers elsewhere; None where it is not one of plain raw numbers."""
    import onnx

    fields = _fields(source, tensor.content, tensor.end, most=_MOST_PLAIN_FIELDS)
    raw = [field for field in fields or () if field.number == _RAW]
    if fields is None or len(raw) != 1 or not _PLAIN.issuperset(f.number for f in fields):
        return None  # other numbers, external data, or what nobody knows
    start, end = raw[0].start, raw[0].end
    if start - tensor.content + tensor.end - end > _MOST_HEAD:
        return None
    head = source.numbers(tensor.content, start - tensor.content)
    thin = onnx.TensorProto()
    thin.ParseFromString(head + source.numbers(end, tensor.end - end))
    length = end - raw[0].content
    if math.prod(thin.dims) * ITEM_BYTES.get(thin.data_type, 0) != length:
        return None
    thin.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(raw[0].content), "length": str(length)}
    for key, value in entries.items():
        thin.external_data.add(key=key, value=value)
    return bytes(thin.SerializeToString())


def _fields(
    source: Source, start: int, end: int, *, least_bytes: int = 0, most: int = MAX_ONNX_FIELDS
) -> list[_Field] | None:
    """The fields from here to there that hold so many bytes; None where a field is not of two
    plain kinds, or where there are more than `most`, those without as many bytes included.
    """
    fields: list[_Field] = []
    position, block, first, count = start, b"", start, 0
    while position < end:
        if position + _HEAD > first + len(block) and first + len(block) < end:
            first, block = position, source.numbers(position, min(_BLOCK, end - position))
        tag, used = varint(block, position - first)
        value, content = varint(block, used) if used else (0, 0)
        kind = tag & 7
        count += 1
        if not content or kind not in (_VARINT, _BYTES) or count > most:
            return None
        content += first
        close = content + (value if kind == _BYTES else 0)
        if close > end:
            return None
        if close - content >= least_bytes:
            fields.append(_Field(tag >> 3, kind, position, content, close))
        position = close
    return fields


def _message(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return field_head(number, len(content)) + content
