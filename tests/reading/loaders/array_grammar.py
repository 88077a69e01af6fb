"""Plain pickles: the grammar of torch's files with NumPy arrays in the place of tensors."""

from __future__ import annotations

import struct
from functools import partial

from hypothesis import strategies as st

from tests.hostile.assembler import call, name, text, tuple_
from tests.reading.loaders.pickle_grammar import (
    FLAG,
    NAMES,
    RECORDS,
    Grammar,
    built,
    number,
    numbers,
    pairs,
)


class ArrayGrammar(Grammar):
    """Draws the parts of one file of pickle.dump."""

    def raw(self) -> bytes:
        data = RECORDS[self.draw(st.sampled_from(("0", "1")))]
        encode = call(name("_codecs", "encode"), text(data.decode("latin1")), text("latin1"))
        return self.maybe(lambda: b"C\x10" + data, lambda: encode,
                          lambda: b"\x96" + struct.pack("<Q", 16) + data)  # fmt: skip

    def dtype(self) -> bytes:
        code = str(self.pick("f4", "i4", "f2", ">f4", "c8", "V4"))
        kind = call(name("numpy", "dtype"), text(code), b"\x89", b"\x88")
        order = str(self.pick("<", ">", "=", "|"))
        nothing = b"N" * 3 + number(-1) * 2 + number(0)
        state = b"(" + number(3) + text(order) + nothing + b"t"
        return self.remembered(self.maybe(lambda: built(kind, state), lambda: kind), "dtype")

    def sizes(self) -> bytes:
        return numbers(self.draw(st.sampled_from(((4,), (2, 2)))) if self.odds else (4,))

    def array_state(self) -> bytes:
        return tuple_(number(1), self.sizes(), self.dtype(),
                      FLAG[bool(self.pick(False, True))], self.raw())  # fmt: skip

    def tensor(self) -> bytes:
        core = partial(name, "numpy._core.multiarray")
        order = text(str(self.pick("C", "F", "A")))
        start = (name("numpy", "ndarray"), numbers((0,)), b"C\x01b")
        frombuffer = name("numpy._core.numeric", "_frombuffer")
        made = self.maybe(
            lambda: built(call(core("_reconstruct"), *start), self.array_state()),
            lambda: call(frombuffer, self.raw(), self.dtype(), self.sizes(), order),
            lambda: call(core("_reconstruct"), *start),
            lambda: call(core("scalar"), self.dtype(), b"C\x04\0\0\x80\xbf"),
            partial(self.again, "tensor"),
        )
        made = self.remembered(made, "tensor")
        return self.maybe(
            lambda: made,
            lambda: built(made, self.array_state()),
            lambda: made + number(0) + number(-1) + b"s",
        )

    def key(self, spelled: str) -> bytes:
        kind = call(name("numpy", "dtype"), text(f"U{len(spelled)}"), b"\x89", b"\x88")
        raw = spelled.encode("utf-32-le")
        scalar = call(name("numpy._core.multiarray", "scalar"), kind,
                      b"C" + bytes([len(raw)]) + raw)  # fmt: skip
        return self.maybe(
            lambda: super(ArrayGrammar, self).key(spelled),
            lambda: b"C" + bytes([len(spelled)]) + spelled.encode(),
            lambda: scalar,
        )

    def attributes(self) -> bytes:
        return b"}" + text("note") + number(1) + b"s"

    def change(self) -> bytes:
        changed = self.choose(
            lambda: (
                self.again("dict")
                + pairs([(self.key(self.draw(st.sampled_from(NAMES))), self.tensor())])
            ),
            lambda: self.again("tensor") + number(1) + number(-1) + b"s",
            lambda: self.again("tensor") + self.array_state() + b"b",
        )
        return text("zz") + changed + b"s"
