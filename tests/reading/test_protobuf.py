"""A small model is not walked: nothing of its size can break a limit."""

from __future__ import annotations

import pytest

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_ONNX_FIELDS
from bncheck.reading import protobuf
from bncheck.reading.protobuf import Schema, check_size

#: Field 1 holds messages of the same kind, field 2 numbers, field 3 text.
_SCHEMA: Schema = {2: True}
_SCHEMA[1] = _SCHEMA
#: What takes the most fields or memory for its bytes.
_DENSE = {
    "marks of groups": b"\x0b",
    "empty messages": b"\x0a\x00",
    "numbers": b"\x10\x01",
    "empty texts": b"\x1a\x00",
    "messages in messages": b"\x0a\x02\x0a\x00",
    "packed numbers": b"\x12\x06" + bytes(6),
}
_FIELDS, _HELD = 1000, 100_000


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_ONNX_FIELDS", _FIELDS)
    monkeypatch.setattr(protobuf, "MAX_HELD_BYTES", _HELD)


def _not_walked(size: int) -> bool:
    most_memory = size * protobuf._BYTES_FOR_EACH
    return size // protobuf._SHORTEST_FIELD <= _FIELDS and most_memory <= _HELD - size


@pytest.mark.parametrize("unit", _DENSE.values(), ids=_DENSE)
def test_what_is_not_walked_would_pass(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = max(size for size in range(2 * _FIELDS) if _not_walked(size))
    data = unit * (largest // len(unit))
    protobuf._walk(data, _SCHEMA, _HELD - len(data))
    monkeypatch.delattr(protobuf, "varint")
    check_size(data, _SCHEMA)


@pytest.mark.parametrize("unit", [_DENSE["marks of groups"], _DENSE["empty messages"]])
def test_one_more_than_a_limit_is_refused(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The densest of each limit: no larger file could go unwalked."""
    fields = unit == _DENSE["marks of groups"]
    monkeypatch.setattr(protobuf, "MAX_HELD_BYTES" if fields else "MAX_ONNX_FIELDS", 1 << 30)
    most = _FIELDS if fields else _HELD // (protobuf._MESSAGE_BYTES + len(unit))
    check_size(unit * most, _SCHEMA)
    with pytest.raises(BncheckError, match="MAX_ONNX_FIELDS, MAX_HELD_BYTES"):
        check_size(unit * (most + 1), _SCHEMA)


def test_the_limit_is_one_of_fields_not_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large weight is one field."""
    monkeypatch.setattr(protobuf, "MAX_HELD_BYTES", 1 << 30)
    data = b"\x1a\x80\x80\x40" + bytes(1 << 20)
    assert len(data) > MAX_ONNX_FIELDS
    check_size(data, _SCHEMA)
