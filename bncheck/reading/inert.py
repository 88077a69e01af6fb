"""A pickle machine that builds a description of what a pickle says and calls nothing.

Pickle is a small stack language. Its dangerous words look up a global (GLOBAL, STACK_GLOBAL, INST,
EXT) and call it (REDUCE, OBJ, NEWOBJ, BUILD). Here a global becomes a `Global`, a pair of names,
and a call becomes a `Node` that remembers what would have been called. Nothing is imported, no
attribute is set, and nothing from the file is hashed (a dict becomes a `Node` with a list of
entries), so neither a payload nor a clever key can make the machine work for it. What a call or a
state would have given is said by `calls`.
Opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py
"""

from __future__ import annotations

import codecs
import gc
import struct
from collections.abc import Callable
from typing import BinaryIO, Final, TypeAlias

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import (
    CONTAINER_OPERATIONS,
    INLINE_BYTES,
    NUMBER_OPERATIONS,
    OPERATION_BYTES,
)
from bncheck.core.words import shortened
from bncheck.reading import calls
from bncheck.reading.pickle_values import DICT, SET, Node, Persistent, Span, Value

_U1, _U2, _U4, _U8, _I4 = map(struct.Struct, ("<B", "<H", "<I", "<Q", "<i"))


#: What a text takes beside its letters, an entry of a dict, and one of a memo without order.
_OBJECT_BYTES: Final = 48
_ENTRY_BYTES: Final = 100
#: How many operations run between two looks at the budget.
_ROUND: Final = 1 << 14


def load(stream: BinaryIO, budget: Budget, refer: Callable[[Value], Value] = Persistent) -> Value:
    """Run one pickle from the stream's position and return what it describes.

    `refer` turns a persistent id into the value that stands for it.
    Raises BncheckError for a malformed, truncated or unreasonably long pickle.
    """
    machine = _Machine(stream, budget, refer)
    collecting = gc.isenabled()
    gc.disable()  # millions of live nodes and no garbage: collecting more than doubles the time
    try:
        return machine.run()
    except BncheckError:
        raise
    except (IndexError, KeyError):
        raise _malformed("it takes more from its stack than it put there") from None
    except (TypeError, ValueError, OverflowError, struct.error, AttributeError) as error:
        raise _malformed(shortened(str(error), 80)) from None
    finally:
        if collecting:
            gc.enable()


def _unknown(opcode: bytes) -> BncheckError:
    if not opcode:
        return BncheckError("ends in the middle of a pickle", "download or copy it again")
    return _malformed(f"unknown opcode {opcode!r}")


def _malformed(reason: str) -> BncheckError:
    return BncheckError(f"holds a malformed pickle ({reason})", "download or save it again")


class _Machine:
    """The stack, the memo and one method per group of opcodes."""

    def __init__(self, stream: BinaryIO, budget: Budget, refer: Callable[[Value], Value]) -> None:
        self.stream = stream
        self.budget = budget
        self.refer = refer
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.memo = _Memo()
        self.given: dict[int, list[Value]] = {}

    def run(self) -> Value:
        read, done = self.stream.read, 0
        handler_of, weight_of = _HANDLERS.get, _WEIGHTS.get  # the innermost loop of all reading
        try:
            while (opcode := read(1)) != b".":
                handler = handler_of(opcode)
                if handler is None:
                    raise _unknown(opcode)
                handler(self)
                done += weight_of(opcode, 1)
                if done >= _ROUND:
                    done -= self.count(done)
        finally:
            self.count(done)
        return self.stack.pop()

    def count(self, done: int) -> int:
        """Take what was done from the budget, and the memory that it holds."""
        self.budget.operations.take(done)
        self.budget.held.take(done * OPERATION_BYTES)
        return done

    # -- reading arguments ---------------------------------------------------------------------

    def take(self, length: int) -> bytes:
        data = self.stream.read(length)
        if len(data) != length:
            raise BncheckError("ends in the middle of a pickle", "download or copy it again")
        return data

    def keep(self, size: int) -> None:
        """Count the memory of a text or a byte string."""
        self.budget.held.take(size + _OBJECT_BYTES)

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, layout: struct.Struct) -> int:
        value: int = layout.unpack(self.take(layout.size))[0]
        return value

    def line(self) -> bytes:
        line = self.stream.readline(INLINE_BYTES)
        if not line.endswith(b"\n"):
            raise _malformed("an unterminated line")
        self.keep(len(line))
        return line[:-1].rstrip(b"\r")

    def byte_string(self, length: int) -> bytes | Span:
        if length <= INLINE_BYTES:
            self.keep(length)
            return self.take(length)
        span = Span(self.stream.tell(), length)
        self.stream.seek(length, 1)
        return span

    def text(self, length: int) -> str:
        if length > 1 << 24:
            raise _malformed(f"a text of {length} bytes")
        text = self.take(length).decode("utf-8", "surrogatepass")
        self.keep(length if text.isascii() else 4 * len(text))
        return text

    # -- the stack -----------------------------------------------------------------------------

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Value]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def top(self, count: int) -> tuple[Value, ...]:
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    # -- containers ----------------------------------------------------------------------------

    def append(self, values: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            if id(target) in self.given:
                raise _malformed("it appends to a list after its use")
            target.extend(values)
        elif isinstance(target, Node) and calls.takes_items(target, keyed=False):
            items = target.items if isinstance(target.items, list) else []
            items.extend(values)
            target.items = items
        else:
            raise _malformed("it appends to something that is not a list")

    def set_items(self, values: list[Value]) -> None:
        target = self.stack[-1]
        if len(values) % 2 or not isinstance(target, Node):
            raise _malformed("it sets items of something that is not a dict")
        if target.function is not DICT and not calls.takes_items(target, keyed=True):
            raise _malformed("it sets items of something that is not a dict")
        entries = target.entries if isinstance(target.entries, list) else []
        self.budget.held.take(_ENTRY_BYTES * len(values) // 2)
        entries.extend(zip(values[::2], values[1::2], strict=True))
        target.entries = entries

    def make_dict(self) -> None:
        values = self.since_mark()
        self.push(Node(DICT))
        self.set_items(values)

    # -- what would have been calls -------------------------------------------------------------

    def call(self, function: Value, args: Value) -> None:
        arguments = self.looked_at(_arguments(args))
        for argument in arguments:
            if isinstance(argument, list):  # the real call would have read it now
                self.given[id(argument)] = argument
        self.push(calls.called(function, arguments, self.charge))

    def looked_at(self, arguments: tuple[Value, ...]) -> tuple[Value, ...]:
        """Count what a call goes through: a thousand calls may share an argument of a million."""
        budget = self.budget.operations
        budget.take(len(arguments))
        budget.take(sum(len(item.entries) for item in arguments if isinstance(item, Node)))
        return arguments

    def charge(self, entries: int) -> None:
        """Count the entries of a dict that a call copies."""
        self.budget.operations.take(entries)
        self.budget.held.take(_ENTRY_BYTES * entries)

    def new_object(self, count: int) -> None:
        kind, args, *keywords = self.top(count)
        named = any(not isinstance(item, Node) or item.entries for item in keywords)
        arguments = self.looked_at(_arguments(args))
        self.push(calls.created(kind, arguments, named, self.charge))

    def inst(self) -> None:
        kind = calls.canonical(_ascii(self.line()), _ascii(self.line()))
        self.call(kind, tuple(self.since_mark()))

    def obj(self) -> None:
        function, *args = self.since_mark()
        self.call(function, tuple(args))

    def build(self) -> None:
        (state,) = self.looked_at((self.stack.pop(),))
        calls.set_state(self.stack[-1], state)

    def extension(self, layout: struct.Struct) -> None:
        self.push(calls.canonical("copyreg.extension", str(self.number(layout))))

    def stack_global(self) -> None:
        module, name = self.top(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise _malformed("a global whose name is not text")
        self.push(calls.canonical(module, name))

    # -- memo ------------------------------------------------------------------------------------

    def put(self, index: int) -> None:
        if not 0 <= index < 1 << 32:
            raise _malformed("a memo index out of range")
        if self.memo.put(index, self.stack[-1]):
            self.budget.held.take(_ENTRY_BYTES)


class _Memo:
    """Numbered values: a list where they are numbered in order, as picklers do, else a dict."""

    def __init__(self) -> None:
        self._ordered: list[Value] = []
        self._others: dict[int, Value] = {}

    def __len__(self) -> int:
        return len(self._ordered) + len(self._others)

    def __getitem__(self, index: int) -> Value:
        return self._ordered[index] if index < len(self._ordered) else self._others[index]

    def put(self, index: int, value: Value) -> bool:
        """Number a value; returns whether it is out of order."""
        known = len(self._ordered)
        if index == known and index not in self._others:
            self._ordered.append(value)
        elif index < known:
            self._ordered[index] = value
        else:
            self._others[index] = value
            return True
        return False


def _arguments(args: Value) -> tuple[Value, ...]:
    if not isinstance(args, tuple):
        raise _malformed("it calls something with arguments that are not a tuple")
    return args


def _ascii(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def _python2_text(data: bytes | Span) -> str | bytes | Span:
    """A Python 2 `str`: text where it decodes as such, the bytes otherwise (array contents)."""
    try:
        return data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError:
        return data


def _string(machine: _Machine) -> None:
    quoted = machine.line()
    if len(quoted) < 2 or quoted[0] != quoted[-1] or quoted[:1] not in (b"'", b'"'):
        raise _malformed("an unquoted string")
    data, _ = codecs.escape_decode(quoted[1:-1])
    machine.push(_python2_text(data))


def _int(machine: _Machine) -> None:
    digits = machine.line()
    machine.push({b"00": False, b"01": True}.get(digits, _decimal(digits)))


def _long(machine: _Machine) -> None:
    machine.push(_decimal(machine.line().rstrip(b"L")))


def _decimal(digits: bytes) -> int:
    if len(digits) > 400:  # int() of a long text takes quadratic time
        raise _malformed("a number of more than 400 digits")
    return int(digits)


def _long_bytes(machine: _Machine, layout: struct.Struct) -> None:
    length = machine.number(layout)
    if not 0 <= length <= INLINE_BYTES:
        raise _malformed(f"a number of {length} bytes")
    machine.keep(length)
    machine.push(int.from_bytes(machine.take(length), "little", signed=True))


_Handler: TypeAlias = Callable[[_Machine], object]


def _constant(value: Value) -> _Handler:
    return lambda m: m.push(value)


_HANDLERS: Final[dict[bytes, _Handler]] = {
    # framing
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    # stack and memo
    b"(": _Machine.mark,
    b"0": lambda m: m.stack.pop() if m.stack else m.since_mark(),
    b"1": _Machine.since_mark,
    b"2": lambda m: m.push(m.stack[-1]),
    b"p": lambda m: m.put(_decimal(m.line())),
    b"q": lambda m: m.put(m.byte()),
    b"r": lambda m: m.put(m.number(_U4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.push(m.memo[_decimal(m.line())]),
    b"h": lambda m: m.push(m.memo[m.byte()]),
    b"j": lambda m: m.push(m.memo[m.number(_U4)]),
    # constants and numbers
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": _int,
    b"J": lambda m: m.push(m.number(_I4)),
    b"K": lambda m: m.push(m.byte()),
    b"M": lambda m: m.push(m.number(_U2)),
    b"L": _long,
    b"\x8a": lambda m: _long_bytes(m, _U1),
    b"\x8b": lambda m: _long_bytes(m, _I4),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # text and bytes
    b"S": _string,
    b"T": lambda m: m.push(_python2_text(m.byte_string(m.number(_U4)))),
    b"U": lambda m: m.push(_python2_text(m.byte_string(m.byte()))),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": lambda m: m.push(m.text(m.number(_U4))),
    b"\x8c": lambda m: m.push(m.text(m.byte())),
    b"\x8d": lambda m: m.push(m.text(m.number(_U8))),
    b"B": lambda m: m.push(m.byte_string(m.number(_U4))),
    b"C": lambda m: m.push(m.byte_string(m.byte())),
    b"\x8e": lambda m: m.push(m.byte_string(m.number(_U8))),
    b"\x96": lambda m: m.push(m.byte_string(m.number(_U8))),
    b"\x98": lambda m: None,  # READONLY_BUFFER
    # containers
    b")": _constant(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.push(m.top(1)),
    b"\x86": lambda m: m.push(m.top(2)),
    b"\x87": lambda m: m.push(m.top(3)),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.since_mark()),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b"}": lambda m: m.push(Node(DICT)),
    b"d": _Machine.make_dict,
    b"s": lambda m: m.set_items(list(m.top(2))),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"\x8f": lambda m: m.push(Node(SET)),
    b"\x90": lambda m: m.append(m.since_mark()),
    b"\x91": lambda m: m.push(Node(SET, items=m.since_mark())),
    # globals and calls
    b"c": lambda m: m.push(calls.canonical(_ascii(m.line()), _ascii(m.line()))),
    b"\x93": _Machine.stack_global,
    b"\x82": lambda m: m.extension(_U1),
    b"\x83": lambda m: m.extension(_U2),
    b"\x84": lambda m: m.extension(_U4),
    b"R": lambda m: m.call(*m.top(2)),
    b"\x81": lambda m: m.new_object(2),
    b"\x92": lambda m: m.new_object(3),
    b"i": _Machine.inst,
    b"o": _Machine.obj,
    b"b": _Machine.build,
    b"P": lambda m: m.push(m.refer(_ascii(m.line()))),
    b"Q": lambda m: m.push(m.refer(m.stack.pop())),
}

#: What counts more than once, because it takes more memory: what makes a container (a list, a
#: tuple, a node or, with MARK, a stack of its own), and what makes a number.
_WEIGHTS: Final = {
    opcode: weight
    for weight, opcodes in (
        (CONTAINER_OPERATIONS, b"(t\x85\x86\x87]l}d\x8f\x91c\x93\x82\x83\x84R\x81\x92ioPQ"),
        (NUMBER_OPERATIONS, b"GFIJML\x8a\x8b"),
    )
    for opcode in (bytes((byte,)) for byte in opcodes)
}
