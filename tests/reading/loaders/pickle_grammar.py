"""Pickles from the grammar of what torch's loader accepts, far beyond torch.save's.

Constructors, rebuild functions, states, attributes, dicts in every way, shared and changed objects,
storages by any reference. Most are nearly sound: one or two things in each are odd.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

import numpy as np
from hypothesis import strategies as st

from tests.hostile.assembler import HOOKS, call, get, name, put, text, tuple_

#: Sixteen bytes each: sound as float32 and, all of them, as something else.
RECORDS = {
    "0": np.array([0.5, 0.25, 0.75, 1.5], np.float32).tobytes(),
    "1": np.full(4, -1, np.float32).tobytes(),
    "v": np.arange(1, 9, dtype=np.float16).tobytes(),
}
NAMES = tuple(
    f"{layer}.{role}" for layer in ("bn", "b") for role in ("running_mean", "running_var")
)
#: Bytes of an element, by the name of the storage.
_KINDS = {"Float": 4, "Int": 4, "Half": 2, "Byte": 1, "Double": 8, "BFloat16": 2, "QInt8": 1,
          "ComplexFloat": 8, "Bool": 1, "Untyped": 1}  # fmt: skip
_DTYPES = ("float32", "float16", "int32", "uint8", "int8", "bfloat16", "float64", "qint8", "uint3",
           "complex64")  # fmt: skip
_ROT13 = str.maketrans("abcdefghijklmnopqrstuvwxyz", "nopqrstuvwxyzabcdefghijklm")
_UTILS = partial(name, "torch._utils")
FLAG = {True: b"\x88", False: b"\x89"}


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return tuple_(*map(number, values))


def list_(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def create(kind: bytes, *arguments: bytes) -> bytes:
    return kind + tuple_(*arguments) + b"\x81"


def built(value: bytes, state: bytes) -> bytes:
    return value + state + b"b"


def pairs(items: list[tuple[bytes, bytes]]) -> bytes:
    return b"(" + b"".join(key + value for key, value in items) + b"u"


class Grammar:
    """Draws the parts of one file; `odd` says how often something unusual comes up."""

    def __init__(self, draw: st.DrawFn, legacy: bool) -> None:
        self.draw = draw
        self._legacy = legacy
        self._memo: dict[str, list[int]] = {}
        self._memos = 0
        self.odds = draw(st.integers(0, 2))

    def pick(self, usual: object, *odd: object) -> object:
        """Mostly what is usual."""
        if self.odds and odd and self.draw(st.integers(0, 23)) < self.odds:
            return self.draw(st.sampled_from(odd))
        return usual

    def choose(self, *makers: Callable[[], bytes]) -> bytes:
        return self.draw(st.sampled_from(makers))()

    def maybe(self, usual: Callable[[], bytes], *odd: Callable[[], bytes]) -> bytes:
        chosen = self.pick(usual, *odd)
        assert callable(chosen)
        made: bytes = chosen()
        return made

    def remembered(self, value: bytes, what: str) -> bytes:
        self._memo.setdefault(what, []).append(self._memos)
        self._memos += 1
        return value + put(self._memos - 1)

    def again(self, what: str) -> bytes:
        """Something that was made before; most memos are of what stands in a file already."""
        known = self._memo.get(what)
        return get(self.draw(st.sampled_from(known))) if known else b"N"

    # -- storages ----------------------------------------------------------------------------

    def reference(self) -> tuple[bytes, int]:
        kind = str(self.pick("Float", *_KINDS))
        elements = 16 // _KINDS[kind]
        key = str(self.pick(self.draw(st.sampled_from(("0", "1"))), "v", "V", "part"))
        told = int(str(self.pick(elements, elements // 2, elements)))
        place = str(self.pick("cpu", "meta"))
        spelled = text(key) if self.pick(True, False) else b"U" + bytes([len(key)]) + key.encode()
        pid = [text("storage"), name("torch", f"{kind}Storage"), spelled, text(place), number(told)]
        if self._legacy:
            view = tuple_(text(str(self.pick("part", "0", "1", "x"))),
                          number(int(str(self.pick(0, 1)))), number(elements - 1))  # fmt: skip
            pid.append(b"N" if self.pick(True, False) else view)
        return self.remembered(tuple_(*pid) + b"Q", "storage"), elements

    def storage(self) -> tuple[bytes, int]:
        odd = self.pick(None, "list", "state")
        if odd is None and not self.pick(True, False):
            return self.again("storage"), 4
        stored, elements = self.reference()
        if odd == "list":
            return call(name("torch.storage", "TypedStorage"), self.list_of_floats()), 4
        if odd == "state":
            dtype = name("torch", self.draw(st.sampled_from(_DTYPES)))
            return built(stored, b"}" + text("dtype") + dtype + b"s"), elements
        return stored, elements

    def list_of_floats(self) -> bytes:
        return list_(*[b"G" + struct.pack(">d", -2.0)] * 4)

    # -- tensors -----------------------------------------------------------------------------

    def arguments(self) -> tuple[bytes, ...]:
        stored, elements = self.storage()
        shapes = [(4,), (2, 2), (1, 4), (2,), (), (0,), (3,), (elements,)]
        shape = self.draw(st.sampled_from(shapes)) if self.odds else (4,)
        strides: list[int] = []
        for size in reversed(shape):
            strides.insert(0, size * strides[0] if strides else 1)
        odd = tuple(self.draw(st.integers(0, 2)) for _ in shape)
        offset = number(int(str(self.pick(0, 1, 2))))
        steps = numbers(tuple(strides) if self.pick(True, False) else odd)
        sized = call(name("torch", "Size"), list_(*map(number, shape)))
        return stored, offset, numbers(shape) if self.pick(True, False) else sized, steps

    def metadata(self) -> bytes:
        bit = str(self.pick("neg", "conj", "other"))
        flags = b"}" + text(bit) + FLAG[bool(self.pick(False, True))] + b"s"
        return self.remembered(self.maybe(lambda: b"}", lambda: b"N", lambda: flags), "flags")

    def rebuilt(self) -> tuple[bytes, tuple[bytes, ...]]:
        """A function and its arguments."""
        kind = str(self.pick("v2", "v1", "v3", "parameter", "parameter_state"))
        if kind == "parameter":
            return _UTILS("_rebuild_parameter"), (self.tensor(), b"\x89", HOOKS)
        if kind == "parameter_state":
            rebuild = _UTILS("_rebuild_parameter_with_state")
            return rebuild, (self.tensor(), b"\x89", HOOKS, self.attributes())
        start = self.arguments()
        if kind == "v1":
            return _UTILS("_rebuild_tensor"), start
        rest: tuple[bytes, ...] = (FLAG[bool(self.pick(False, True))], HOOKS)
        if kind == "v3":
            rest += (name("torch", self.draw(st.sampled_from(_DTYPES))),)
        if not self.pick(True, False):
            rest += (self.metadata(),)
        rebuild = _UTILS(f"_rebuild_tensor_{kind}")
        dotted = name("torch", f"_utils._rebuild_tensor_{kind}")
        return (rebuild if self.pick(True, False) else dotted), start + rest

    def plain(self) -> bytes:
        function, arguments = self.rebuilt()
        return call(function, *arguments)

    def subclass(self) -> bytes:
        function, arguments = self.rebuilt()
        kind = self.draw(st.sampled_from((
            name("torch", "Tensor"), name("torch.nn.parameter", "Parameter"))))  # fmt: skip
        rebuild = name("torch._tensor", "_rebuild_from_type_v2")
        return call(rebuild, function, kind, tuple_(*arguments), self.attributes())

    def attributes(self) -> bytes:
        names = ("note", "data", "real", "imag", "grad", "requires_grad", "names", "_is_param")
        attribute = text(self.draw(st.sampled_from(names)))
        value = self.choose(lambda: b"N", lambda: number(1), self.rest, self.tensor)
        found = b"}" + attribute + value + b"s"
        return self.choose(lambda: b"N", lambda: b"}", lambda: found,
                           lambda: tuple_(b"N", found), lambda: tuple_(found, b"N"))  # fmt: skip

    def rest(self) -> bytes:
        return self.choose(lambda: b"N", lambda: text("x"), lambda: FLAG[True])

    def parameter(self) -> bytes:
        kind = name("torch.nn.parameter", "Parameter")
        return self.choose(
            lambda: call(kind, self.tensor()),
            lambda: create(kind, self.tensor(), b"\x89"),
            lambda: create(kind),
        )

    def constructed(self) -> bytes:
        kind = name("torch", self.draw(st.sampled_from(("Tensor", "FloatTensor", "HalfTensor"))))
        make = self.draw(st.sampled_from((call, create)))
        return self.choose(
            lambda: make(kind, self.list_of_floats()),
            lambda: make(kind),
            lambda: make(kind, number(4)),
            lambda: make(kind, self.tensor()),
            lambda: make(kind, self.reference()[0]),
        )

    def of_other_kind(self) -> bytes:
        float32, false = name("torch", "float32"), b"\x89"
        return self.choose(
            lambda: call(_UTILS("_rebuild_device_tensor_from_cpu_tensor"), self.tensor(), float32,
                         text("cpu"), false),
            lambda: call(_UTILS("_rebuild_meta_tensor_no_storage"), float32, numbers((4,)),
                         numbers((1,)), false),
            lambda: call(_UTILS("_rebuild_qtensor"), *self.arguments(),
                         tuple_(name("torch", "per_tensor_affine"),
                                b"G" + struct.pack(">d", 0.5), number(0)), false, HOOKS),
            lambda: call(_UTILS("_rebuild_wrapper_subclass"), name("torch", "Tensor"), float32,
                         numbers((4,)), numbers((1,)), number(0),
                         call(name("torch.serialization", "_get_layout"), text("torch.strided")),
                         text("cpu"), false),
        )  # fmt: skip

    def tensor(self) -> bytes:
        made = self.maybe(
            self.plain, self.subclass, self.parameter, self.constructed, self.of_other_kind,
            partial(self.again, "tensor"),
        )  # fmt: skip
        made = self.remembered(made, "tensor")
        return made if self.pick(True, False) else built(made, self.state())

    def state(self) -> bytes:
        return self.choose(
            lambda: tuple_(*self.arguments()),
            lambda: tuple_(self.tensor()),
            lambda: tuple_(b"\x89", b"\x89", HOOKS),
            lambda: tuple_(self.tensor(), number(1), HOOKS, b"\x89", b"\x89"),
            self.attributes,
        )

    # -- dicts -------------------------------------------------------------------------------

    def key(self, spelled: str) -> bytes:
        encode = partial(call, name("_codecs", "encode"))
        return self.maybe(
            lambda: text(spelled),
            lambda: b"U" + bytes([len(spelled)]) + spelled.encode(),
            lambda: encode(text(spelled), text("latin1")),
            lambda: encode(text(spelled.translate(_ROT13)), text("rot13")),
            lambda: number(0),
            lambda: b"\x89",
        )

    def statistics(self) -> list[tuple[bytes, bytes]]:
        names = list(NAMES[: self.draw(st.sampled_from((2, 4)))])
        more = self.pick(None, *NAMES)
        return [(self.key(n), self.tensor()) for n in [*names, *([str(more)] if more else [])]]

    def dict_of(self, items: list[tuple[bytes, bytes]]) -> bytes:
        ordered = name("collections", "OrderedDict")
        other = name("UserDict", "OrderedDict")
        counter = name("collections", "Counter")
        half = len(items) // 2
        first, last = items[:half], items[half:]
        as_list = [tuple_(*pair) if self.pick(True, False) else list_(*pair) for pair in first]
        made = self.maybe(
            lambda: b"}" + pairs(items),
            lambda: call(ordered) + pairs(items),
            lambda: call(ordered, list_(*as_list)) + pairs(last),
            lambda: call(other, list_(*as_list)) + pairs(last),
            lambda: create(ordered, list_(*as_list)) + pairs(last),
            lambda: call(ordered, b"}" + pairs(first)) + pairs(last),
            lambda: call(counter, b"}" + pairs(items)),
            lambda: create(counter, b"}" + pairs(first)) + pairs(last),
            lambda: ordered + list_(list_(*as_list)) + b"R" + pairs(last),
            lambda: built(call(ordered) + pairs(items), b"}" + pairs(self.statistics())),
            lambda: built(call(ordered) + pairs(items), b"}" + text("_metadata") + b"}s"),
        )
        return self.remembered(made, "dict")

    def content(self) -> bytes:
        part = partial(lambda: self.dict_of(self.statistics()))
        root = self.maybe(
            part,
            lambda: self.dict_of([(self.key("state_dict"), part()), (self.key("ema"), part())]),
            lambda: self.dict_of([(self.key("model"), part()), (self.key("model"), part())]),
            lambda: self.dict_of([*self.statistics(), (text("below"), part())]),
            lambda: list_(part(), self.again("dict")),
            lambda: tuple_(self.tensor(), part()),
        )
        return root + b"".join(self.change() for _ in range(int(str(self.pick(0, 1, 2)))))

    def change(self) -> bytes:
        """Something is done to what was made before, below a key that nobody reads."""
        changed = self.choose(
            lambda: (
                self.again("dict")
                + pairs([(text(self.draw(st.sampled_from(NAMES))), self.tensor())])
            ),
            lambda: self.again("flags") + text("neg") + b"\x89s",
            lambda: self.again("tensor") + self.state() + b"b",
            lambda: self.again("storage") + self.state() + b"b",
            lambda: self.again("dict") + self.attributes() + b"b",
        )
        return text("zz") + changed + b"s"
