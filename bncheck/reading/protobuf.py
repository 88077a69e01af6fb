"""The wire format of protobuf, walked before anything is parsed.

Nothing marks an ONNX file, and protobuf accepts nearly anything; an empty message takes two bytes
of file and 160 of memory. So a file is looked at field by field first.
https://protobuf.dev/programming-guides/encoding/, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_HELD_BYTES, MAX_ONNX_FIELDS
from bncheck.reading.source import Source

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

_GRAPH: Final = 7
_LAST_FIELD: Final = 30
#: ModelProto has a dozen fields; a file with more is something else.
_MOST_TOP_FIELDS: Final = 10_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GROUPS: Final = (3, 4)
#: int64, uint64, int32, bool, uint32, enum, sint32, sint64 of FieldDescriptorProto.Type
_VARINT_TYPES: Final = (3, 4, 5, 8, 13, 14, 17, 18)
_WIDTHS: Final = {_FIXED64: 8, _FIXED32: 4}

#: What a message takes in memory, and what a text does beside its letters. A repeated number takes
#: up to 8 bytes, and as much again while its array grows.
_MESSAGE_BYTES: Final = 160
_TEXT_BYTES: Final = 32
_NUMBER_BYTES: Final = 16
#: The most memory for each byte of a file: empty messages, of two bytes each. And the shortest
#: field: a mark of a group, which has no value.
_BYTES_FOR_EACH: Final = _MESSAGE_BYTES // 2
_SHORTEST_FIELD: Final = 1
#: What Python, NumPy and onnx take.
_PROCESS_BYTES: Final = 48 << 20
_SLICE: Final = 1 << 20
_CONTINUED: Final = bytes(range(0x80, 0x100))

#: By field number, what lies in a message: the fields of a message, or whether it is a list of
#: numbers; what is neither is text.
Schema: TypeAlias = "dict[int, Schema | bool]"


def has_graph(source: Source) -> bool:
    """Walk the top-level fields, a few bytes each, and look for ModelProto's graph.

    Reading gigabytes of something else to find out is not an option.
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


def may_be_graph(source: Source) -> bool:
    """Whether a runtime, which skips unknown fields, could find a graph in what is something else.

    Also True for more fields than any honest writer makes.
    """
    position, graph = 0, False
    for _ in range(_MOST_TOP_FIELDS):
        if position >= source.size:
            return graph and position == source.size
        head = source.read(position, min(20, source.size - position))
        tag, used = varint(head, 0)
        field, kind = tag >> 3, tag & 7
        value, end = varint(head, used) if kind in (_VARINT, _BYTES) else (0, used)
        if not used or not field or not end or kind > _FIXED32:
            return False
        graph |= field == _GRAPH and kind == _BYTES
        position += end + (value if kind == _BYTES else _WIDTHS.get(kind, 0))
    return True


def schema_of(message: Descriptor, known: dict[str, Schema] | None = None) -> Schema:
    """What the fields of a message are, and of those in it."""
    known = {} if known is None else known
    if message.full_name not in known:
        schema = known[message.full_name] = {}
        for field in message.fields:
            if field.message_type is not None:
                schema[field.number] = schema_of(field.message_type, known)
            elif field.type in _VARINT_TYPES:
                schema[field.number] = True
    return known[message.full_name]


def check_size(data: bytes, schema: Schema) -> None:
    """Refuse a model of more messages, texts and numbers than any network of its size has.

    As parsed it may take MAX_HELD_BYTES with its bytes; where it is large, the whole process three
    times these.
    """
    left = max(MAX_HELD_BYTES - len(data), 2 * len(data) - _PROCESS_BYTES)
    most_fields, most_memory = len(data) // _SHORTEST_FIELD, len(data) * _BYTES_FOR_EACH
    if most_fields > MAX_ONNX_FIELDS or most_memory > left:
        _walk(data, schema, left)


def _walk(data: bytes, schema: Schema, left: int) -> None:
    """Count what is in all messages. `left` is the memory that it may take."""
    count = 0
    stack: list[tuple[int, int, Schema]] = [(0, len(data), schema)]
    while stack:
        position, end, fields = stack.pop()
        while position < end:
            count += 1
            tag, position = varint(data, position)
            kind, length = tag & 7, 0
            if kind == _VARINT:
                _, position = varint(data, position)
            elif kind == _BYTES:
                length, position = varint(data, position)
                inner = fields.get(tag >> 3)
                if isinstance(inner, dict):
                    if length:
                        stack.append((position, min(position + length, end), inner))
                    left -= _MESSAGE_BYTES
                elif inner:
                    left -= _NUMBER_BYTES * _numbers(data, position, min(length, end - position))
                else:
                    left -= _TEXT_BYTES + length
                position += length
            elif kind not in _GROUPS:  # whose content is walked like that around it
                position += _WIDTHS.get(kind, end)
            if count > MAX_ONNX_FIELDS or left < 0:
                raise _too_large()
            if not position:  # no number: the parser will say so
                return


def _numbers(data: bytes, start: int, length: int) -> int:
    """How many numbers are packed there: each ends with a byte below 0x80."""
    return sum(
        len(data[at : min(at + _SLICE, start + length)].translate(None, _CONTINUED))
        for at in range(start, start + length, _SLICE)
    )


def _too_large() -> BncheckError:
    return BncheckError(
        f"is an ONNX model of more than {MAX_ONNX_FIELDS:,} fields, or takes more than three times "
        "its size in memory (limits MAX_ONNX_FIELDS, MAX_HELD_BYTES)",
        "check where it comes from",
    )


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


def field_head(number: int, length: int) -> bytes:
    """What stands before so many bytes that are the content of a field."""
    return _written(number << 3 | _BYTES) + _written(length)


def _written(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))
