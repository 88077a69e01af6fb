"""Pickles and archives from the grammar of what torch's loader accepts, far beyond torch.save's.

Constructors, rebuild functions, states, attributes, dicts in every way, shared and changed objects,
storages by any reference. Most are nearly sound: one or two things in each are odd.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tests.hostile.assembler import HOOKS, call, get, name, put, text, tuple_
from tests.hostile.case import file, pack

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
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
_UTILS = partial(name, "torch._utils")
_FLAG = {True: b"\x88", False: b"\x89"}


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
        self._draw = draw
        self._legacy = legacy
        self._memo: dict[str, list[int]] = {}
        self._memos = 0
        self._odds = draw(st.integers(0, 2))

    def pick(self, usual: object, *odd: object) -> object:
        """Mostly what is usual."""
        if self._odds and odd and self._draw(st.integers(0, 23)) < self._odds:
            return self._draw(st.sampled_from(odd))
        return usual

    def choose(self, *makers: Callable[[], bytes]) -> bytes:
        return self._draw(st.sampled_from(makers))()

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
        return get(self._draw(st.sampled_from(known))) if known else b"N"

    # -- storages ----------------------------------------------------------------------------

    def reference(self) -> tuple[bytes, int]:
        kind = str(self.pick("Float", *_KINDS))
        elements = 16 // _KINDS[kind]
        key = str(self.pick(self._draw(st.sampled_from(("0", "1"))), "v", "V", "part"))
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
            dtype = name("torch", self._draw(st.sampled_from(_DTYPES)))
            return built(stored, b"}" + text("dtype") + dtype + b"s"), elements
        return stored, elements

    def list_of_floats(self) -> bytes:
        return list_(*[b"G" + struct.pack(">d", -2.0)] * 4)

    # -- tensors -----------------------------------------------------------------------------

    def arguments(self) -> tuple[bytes, ...]:
        stored, elements = self.storage()
        shapes = [(4,), (2, 2), (1, 4), (2,), (), (0,), (3,), (elements,)]
        shape = self._draw(st.sampled_from(shapes)) if self._odds else (4,)
        strides: list[int] = []
        for size in reversed(shape):
            strides.insert(0, size * strides[0] if strides else 1)
        odd = tuple(self._draw(st.integers(0, 2)) for _ in shape)
        offset = number(int(str(self.pick(0, 1, 2))))
        steps = numbers(tuple(strides) if self.pick(True, False) else odd)
        sized = call(name("torch", "Size"), list_(*map(number, shape)))
        return stored, offset, numbers(shape) if self.pick(True, False) else sized, steps

    def metadata(self) -> bytes:
        bit = str(self.pick("neg", "conj", "other"))
        flags = b"}" + text(bit) + _FLAG[bool(self.pick(False, True))] + b"s"
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
        rest: tuple[bytes, ...] = (_FLAG[bool(self.pick(False, True))], HOOKS)
        if kind == "v3":
            rest += (name("torch", self._draw(st.sampled_from(_DTYPES))),)
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
        kind = self._draw(st.sampled_from((
            name("torch", "Tensor"), name("torch.nn.parameter", "Parameter"))))  # fmt: skip
        rebuild = name("torch._tensor", "_rebuild_from_type_v2")
        return call(rebuild, function, kind, tuple_(*arguments), self.attributes())

    def attributes(self) -> bytes:
        names = ("note", "data", "real", "imag", "grad", "requires_grad", "names", "_is_param")
        attribute = text(self._draw(st.sampled_from(names)))
        value = self.choose(lambda: b"N", lambda: number(1), self.rest, self.tensor)
        found = b"}" + attribute + value + b"s"
        return self.choose(lambda: b"N", lambda: b"}", lambda: found,
                           lambda: tuple_(b"N", found), lambda: tuple_(found, b"N"))  # fmt: skip

    def rest(self) -> bytes:
        return self.choose(lambda: b"N", lambda: text("x"), lambda: _FLAG[True])

    def parameter(self) -> bytes:
        kind = name("torch.nn.parameter", "Parameter")
        return self.choose(
            lambda: call(kind, self.tensor()),
            lambda: create(kind, self.tensor(), b"\x89"),
            lambda: create(kind),
        )

    def constructed(self) -> bytes:
        kind = name("torch", self._draw(st.sampled_from(("Tensor", "FloatTensor", "HalfTensor"))))
        make = self._draw(st.sampled_from((call, create)))
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
        names = list(NAMES[: self._draw(st.sampled_from((2, 4)))])
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
                + pairs([(text(self._draw(st.sampled_from(NAMES))), self.tensor())])
            ),
            lambda: self.again("flags") + text("neg") + b"\x89s",
            lambda: self.again("tensor") + self.state() + b"b",
            lambda: self.again("storage") + self.state() + b"b",
            lambda: self.again("dict") + self.attributes() + b"b",
        )
        return text("zz") + changed + b"s"


class PlainGrammar(Grammar):
    """The same of pickle.dump's files: NumPy arrays in the place of tensors."""

    def raw(self) -> bytes:
        data = RECORDS[self._draw(st.sampled_from(("0", "1")))]
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
        return numbers(self._draw(st.sampled_from(((4,), (2, 2)))) if self._odds else (4,))

    def array_state(self) -> bytes:
        return tuple_(number(1), self.sizes(), self.dtype(),
                      _FLAG[bool(self.pick(False, True))], self.raw())  # fmt: skip

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
            lambda: super(PlainGrammar, self).key(spelled),
            lambda: b"C" + bytes([len(spelled)]) + spelled.encode(),
            lambda: scalar,
        )

    def attributes(self) -> bytes:
        return b"}" + text("note") + number(1) + b"s"

    def change(self) -> bytes:
        changed = self.choose(
            lambda: (
                self.again("dict")
                + pairs([(self.key(self._draw(st.sampled_from(NAMES))), self.tensor())])
            ),
            lambda: self.again("tensor") + number(1) + number(-1) + b"s",
            lambda: self.again("tensor") + self.array_state() + b"b",
        )
        return text("zz") + changed + b"s"


_ROT13 = str.maketrans("abcdefghijklmnopqrstuvwxyz", "nopqrstuvwxyzabcdefghijklm")


def _zip(folder: Path, body: bytes, order: str, patches: list[tuple[int, int]]) -> Path:
    records = {"a/data.pkl": b"\x80\x02" + body + b".", "a/version": b"3\n"}
    records |= {f"a/data/{key}": raw for key, raw in RECORDS.items()}
    if order:
        record, _, value = order.partition("=")
        records[f"a/{record}"] = value.encode()
    path = pack(folder / "model.pt", records)
    data = bytearray(path.read_bytes())
    for place, byte in patches:  # counted from the end: the directory, then headers and numbers
        data[-1 - place % len(data)] = byte
    path.write_bytes(data)
    return path


def _legacy(folder: Path, body: bytes, keys: tuple[str, ...]) -> Path:
    listed = b"\x80\x02](" + b"".join(text(key) for key in keys) + b"e."
    raw = b"".join(struct.pack("<q", 4) + RECORDS[key] for key in keys)
    return file(folder, _MAGIC + b"\x80\x02" + body + b"." + listed + raw)


@st.composite
def files(draw: st.DrawFn) -> Callable[[Path], Path]:
    """Writes one file into a folder."""
    form = draw(st.sampled_from(("zip", "zip", "legacy", "legacy", "plain")))
    if form == "plain":
        data = b"\x80\x04" + PlainGrammar(draw, False).content() + b"."
        return partial(file, data=data, name="model.pkl")
    legacy = form == "legacy"
    body = Grammar(draw, legacy).content()
    if legacy:
        keys = draw(st.sampled_from((("0", "1"), ("1", "0"), ("0",), ("0", "1", "0"))))
        return partial(_legacy, body=body, keys=keys)
    order = draw(st.sampled_from(("", "", "byteorder=little", "byteorder=big", "BYTEORDER=big")))
    # What sizes, flags, counts and offsets are made of.
    bytes_ = st.sampled_from((0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 46, 48, 80, 128, 255))
    patch = st.tuples(st.integers(0, 700), bytes_)
    patches = draw(st.lists(patch, max_size=2)) if draw(st.integers(0, 3)) == 0 else []
    return partial(_zip, body=body, order=order, patches=patches)
