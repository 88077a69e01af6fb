"""Pickles of which torch makes other tensors than they show: calls, states, keys and storages.

As in `liars`: torch.load(weights_only=True) finds a negative variance in each file `lie-...`.
"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

import numpy as np

from tests.hostile.assembler import HOOKS, call, dict_, get, name, put, text, tuple_
from tests.hostile.case import FOUND, REFUSED, add, file, pack

_GOOD = np.array([0.5, 0.25, 0.75, 1.5], np.float32).tobytes()
_BAD = np.full(4, -1, np.float32).tobytes()
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
_ORDERED = name("collections", "OrderedDict")
_COUNTER = name("collections", "Counter")
_TENSOR = name("torch", "Tensor")
_V2 = name("torch._utils", "_rebuild_tensor_v2")
_FROM_TYPE = name("torch._tensor", "_rebuild_from_type_v2")
_WITH_STATE = name("torch._utils", "_rebuild_parameter_with_state")
_PARAMETER_CLASS = name("torch.nn.parameter", "Parameter")
_FALSE = b"\x89"


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _storage(key: bytes, kind: str = "FloatStorage", place: str = "cpu", *view: bytes) -> bytes:
    """A reference to four elements; `view` is what a legacy file adds."""
    pid = (text("storage"), name("torch", kind), key, text(place), _int(4), *view)
    return tuple_(*pid) + b"Q"


def _arguments(storage: bytes, *more: bytes) -> tuple[bytes, ...]:
    return (storage, _int(0), tuple_(_int(4)), tuple_(_int(1)), _FALSE, HOOKS, *more)


def _tensor(key: str, *more: bytes) -> bytes:
    return call(_V2, *_arguments(_storage(text(key)), *more))


def _typed(state: bytes, kind: bytes = _TENSOR) -> bytes:
    """A tensor of a subclass, with a state."""
    arguments = tuple_(*_arguments(_storage(text("0"))))
    return call(_FROM_TYPE, _V2, kind, arguments, state)


def _listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


_SHOWN, _HIDDEN = _tensor("0"), _tensor("1")
_MEAN = {"bn.running_mean": _SHOWN}
_SOUND, _SICK = _MEAN | {"bn.running_var": _SHOWN}, _MEAN | {"bn.running_var": _HIDDEN}
_LIST = b"](" + b"G\xbf\xf0\0\0\0\0\0\0" * 4 + b"e"  # -1.0, four times
_ROT13 = call(name("_codecs", "encode"), text("oa.ehaavat_ine"), text("rot13"))
_PARAMETER = name("torch._utils", "_rebuild_parameter")
_SET = tuple_(_storage(text("1")), _int(0), tuple_(_int(4)), tuple_(_int(1)))


def _variance(shown: bytes) -> bytes:
    return dict_(_MEAN | {"bn.running_var": shown})


def _items(items: dict[str, bytes]) -> bytes:
    return b"(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def _packed(folder: Path, body: bytes) -> Path:
    records = {
        "archive/data.pkl": b"\x80\x02" + body + b".",
        "archive/data/0": _GOOD,
        "archive/data/1": _BAD,
        "archive/version": b"3\n",
    }
    return pack(folder / "model.pt", records)


_PAIR = tuple_(text("bn.running_var"), _HIDDEN)
#: What it is called, the right exit codes, what it is, and its pickle.
_PICKLES = (
    ("subclass-state", REFUSED, "a subclass whose state is a dict with `data`",
     _variance(_typed(dict_({"data": _HIDDEN})))),
    ("subclass-slots", REFUSED, "a subclass whose state is a dict and slots",
     _variance(_typed(tuple_(b"N", dict_({"data": _HIDDEN}))))),
    ("subclass-real", REFUSED, "a subclass whose state writes into `.real`",
     _variance(_typed(dict_({"real": _HIDDEN})))),
    ("subclass-real-elsewhere", REFUSED, "the same, of a tensor that nobody reads",
     dict_({"unused": _typed(dict_({"real": _HIDDEN})), **_SOUND})),
    ("subclass-of-subclass-elsewhere", REFUSED, "the same, made by a subclass of a subclass",
     dict_({"unused": call(_FROM_TYPE, _FROM_TYPE, _TENSOR,
                           tuple_(_V2, _TENSOR, tuple_(*_arguments(_storage(text("0")))),
                                  dict_({"real": _HIDDEN})), dict_({})), **_SOUND})),
    ("subclass-of-list-elsewhere", REFUSED, "the same, with its arguments in a list",
     dict_({"unused": call(_FROM_TYPE, _WITH_STATE, _PARAMETER_CLASS,
                           _listed(_SHOWN, _FALSE, HOOKS, dict_({"real": _HIDDEN})), dict_({})),
            **_SOUND})),
    ("subclass-of-constructor", REFUSED, "a subclass made from a list of numbers",
     _variance(call(name("torch._tensor", "_rebuild_from_type_v2"), _TENSOR, _TENSOR,
                    tuple_(_LIST), dict_({})))),
    ("parameter-of-subclass", REFUSED, "a parameter around a subclass with a state",
     _variance(call(_PARAMETER, _typed(dict_({"data": _HIDDEN})), _FALSE, HOOKS))),
    ("constructor", REFUSED, "torch.Tensor of a list", _variance(call(_TENSOR, _LIST))),
    ("constructor-of-kind", REFUSED, "torch.FloatTensor of a list",
     _variance(call(name("torch", "FloatTensor"), _LIST))),
    ("constructor-new", REFUSED, "torch.Tensor of a list, made with NEWOBJ",
     _variance(_TENSOR + tuple_(_LIST) + b"\x81")),
    ("constructor-set", REFUSED, "an empty torch.Tensor whose state is handed to set_()",
     _variance(_TENSOR + b")\x81" + _SET + b"b")),
    ("constructor-set-in-layer", REFUSED, "both statistics of a layer made so",
     dict_({"bn.running_mean": call(_TENSOR, _LIST), "bn.running_var": call(_TENSOR, _LIST)})),
    ("set-to-tensor", REFUSED, "a tensor whose state is another tensor",
     _variance(_SHOWN + tuple_(_HIDDEN) + b"b")),
    ("parameter-empty", REFUSED, "an empty Parameter whose state is that of torch 0.1",
     _variance(name("torch.nn.parameter", "Parameter") + b")\x81"
               + tuple_(_HIDDEN, _int(1), HOOKS, _FALSE, _FALSE) + b"b")),
    ("storage-of-list", REFUSED, "a tensor of a storage made from a list",
     _variance(call(_V2, *_arguments(call(name("torch.storage", "TypedStorage"), _LIST))))),
    ("counter", FOUND, "a Counter of a dict", call(_COUNTER, dict_(_SICK))),
    ("counter-and-items", FOUND, "a Counter of a dict, and items",
     call(_COUNTER, dict_(_SOUND)) + _items({"bn.running_var": _HIDDEN})),
    ("other-spelling", FOUND, "OrderedDict by its place in Python 2, made of pairs",
     call(name("UserDict", "OrderedDict"), b"]" + _PAIR + b"a")
     + _items(_MEAN)),
    ("dotted-name", FOUND, "a function whose module is part of its name",
     _variance(call(name("torch", "_utils._rebuild_tensor_v2"),
                    *_arguments(_storage(text("1")))))),
    ("new-ordered-dict", FOUND, "an OrderedDict by NEWOBJ, which forgets its pairs",
     _ORDERED + tuple_(b"](" + tuple_(text("other.running_mean"), _SHOWN)
                       + tuple_(text("other.running_var"), _SHOWN) + b"e") + b"\x81"
     + _items(_SICK)),
    ("pair-of-three", FOUND, "a pair that grew after it was used",
     call(_ORDERED, b"](" + b"](" + text("bn.running_var") + _HIDDEN + b"e" + put(7) + b"e")
     + _items(_MEAN) + text("pair") + get(7) + text("more") + b"as"),
    ("arguments-as-list", REFUSED, "a call with a list in the place of the tuple",
     _ORDERED + b"](" + b"]" + _PAIR + b"a" + b"eR" + _items(_MEAN)),
    ("metadata-false", REFUSED, "a negative bit that is said to be False, and that torch sets",
     _variance(_tensor("0", dict_({"neg": _FALSE})))),
    ("metadata-changed", REFUSED, "a negative bit that is taken back after its use",
     dict_({"meta": dict_({"neg": b"\x88"}) + put(7),
            **_MEAN, "bn.running_var": _tensor("0", get(7))})
     + text("meta") + get(7) + text("neg") + _FALSE + b"ss"),
    ("rot13-key", REFUSED, "a key that a codec turns into a name",
     dict_(_SOUND) + _ROT13 + _HIDDEN + b"s"),
    ("key-twice-one-part", FOUND, "a larger part, replaced by a smaller one of the same key",
     dict_({"state_dict": dict_(_SOUND | {f"b.{key}": _SHOWN for key in ("running_mean",
                                                                       "running_var")})})
     + text("state_dict") + dict_(_SICK) + b"s"),
    ("dict-attributes", FOUND, "an OrderedDict whose attributes look like more layers",
     call(_ORDERED) + _items(_SICK)
     + dict_({f"{layer}.{key}": _SHOWN for layer in "ab"
              for key in ("running_mean", "running_var")}) + b"b"),
)  # fmt: skip
for _name, _codes, _what, _body in _PICKLES:
    add(f"lie-{_name}", _codes, _what, partial(_packed, body=_body))


# --- storages: other dtypes, other places, other keys ---------------------------------------------


def _with_storage(folder: Path, raw: bytes, variance: bytes, order: bytes = b"little") -> Path:
    records = {
        "archive/data.pkl": b"\x80\x02" + _variance(variance) + b".",
        "archive/data/0": _GOOD if order == b"little" else np.frombuffer(_GOOD, "<f4").byteswap(),
        "archive/data/2": raw,
        "archive/byteorder": order,
        "archive/version": b"3\n",
    }
    return pack(folder / "model.pt", {name: bytes(data) for name, data in records.items()})


def _typed_storage(folder: Path) -> Path:
    """torch takes the dtype that a state gave the storage: 200 is -56 as int8."""
    storage = _storage(text("2"), "ByteStorage") + dict_({"dtype": name("torch", "int8")}) + b"b"
    return _with_storage(folder, bytes([200] * 4), call(_V2, *_arguments(storage)))


def _meta(folder: Path) -> Path:
    storage = _storage(text("2"), place="meta")
    return _with_storage(folder, _GOOD, call(_V2, *_arguments(storage)))


def _big_endian_view(folder: Path) -> Path:
    """torch swaps the bytes of the storage's dtype, here four, not of the tensor's, here two."""
    view = (_int(0), tuple_(_int(4)), tuple_(_int(2)), _FALSE, HOOKS, name("torch", "float16"))
    storage = _storage(text("2"), "IntStorage")
    v3 = call(name("torch._utils", "_rebuild_tensor_v3"), storage, *view)
    numbers = np.array([0.5, -0.5] * 4, ">f2").tobytes()
    return _with_storage(folder, numbers, v3, b"big")


def _hidden_methods(folder: Path) -> Path:
    """A state dict whose `items` is a class: torch hands on an OrderedDict without any."""
    hidden = call(_ORDERED) + _items(_SOUND) + dict_({"items": _ORDERED}) + b"b"
    return _packed(folder, hidden)


def _legacy(folder: Path, body: bytes, storages: dict[str, bytes]) -> Path:
    keys = b"\x80\x02](" + b"".join(text(key) for key in storages) + b"e."
    data = b"".join(struct.pack("<q", len(raw) // 4) + raw for raw in storages.values())
    return file(folder, _LEGACY + b"\x80\x02" + body + b"." + keys + data)


def _view(root: str, key: str) -> bytes:
    view = tuple_(text(key), _int(0), _int(4))
    return call(_V2, *_arguments(_storage(text(root), "FloatStorage", "cpu", view)))


def _whole(key: str) -> bytes:
    return call(_V2, *_arguments(_storage(text(key), "FloatStorage", "cpu", b"N")))


_ROOTS = {"good": _GOOD, "bad": _BAD}


def _legacy_case(folder: Path, mean: bytes, variance: bytes) -> Path:
    body = dict_({"bn.running_mean": mean, "bn.running_var": variance, "w": _whole("good")})
    return _legacy(folder, body, _ROOTS)


add("lie-view-key-twice", REFUSED, "a part of two storages, of which torch takes the first",
    partial(_legacy_case, mean=_view("bad", "part"), variance=_view("good", "part")))  # fmt: skip
add("lie-view-key-of-root", REFUSED, "a part that has the key of a storage",
    partial(_legacy_case, mean=_whole("bad"), variance=_view("good", "bad")))  # fmt: skip
add("no-numbers-hidden-methods", REFUSED, "an OrderedDict with attributes that hide its methods",
    _hidden_methods)  # fmt: skip
add("lie-typed-storage", REFUSED, "a storage whose dtype a state sets", _typed_storage)
add("no-numbers-meta", REFUSED, "a storage of the device meta", _meta)
add("lie-big-endian-view", REFUSED, "big-endian numbers of another dtype", _big_endian_view)


# --- plain pickles --------------------------------------------------------------------------------


def _array(numbers: bytes, *, length: int = 4) -> bytes:
    dtype = call(name("numpy", "dtype"), text("f4"), _FALSE, b"\x88")
    raw = b"C" + bytes([len(numbers)]) + numbers
    return call(name("numpy._core.numeric", "_frombuffer"), raw, dtype, tuple_(_int(length)),
                text("C"))  # fmt: skip


def _plain(folder: Path, body: bytes) -> Path:
    return file(folder, b"\x80\x04" + body + b".")


_ARRAYS = {"bn.running_mean": _array(_GOOD), "bn.running_var": _array(_GOOD)}
for _name, _what, _body in (
    ("bytes-key", "a name as bytes behind one as text",
     dict_(_ARRAYS | {"bn.running_var": _array(_BAD)}) + b"C\x0ebn.running_var" + _array(_GOOD)
     + b"s"),
    ("array-item", "an array of which one number is set later",
     dict_(_ARRAYS | {"bn.running_var": _array(_GOOD) + _int(0) + b"G\xbf\xf0\0\0\0\0\0\0s"})),
    ("array-state", "an array whose state is another's",
     dict_(_ARRAYS | {"bn.running_var": _array(_GOOD) + tuple_(_int(1), tuple_(_int(4)),
           call(name("numpy", "dtype"), text("f4")), _FALSE, b"C\x10" + _BAD) + b"b"})),
    ("numpy-key", "names that are texts of NumPy",
     dict_(_ARRAYS) + call(name("numpy._core.multiarray", "scalar"),
                           call(name("numpy", "dtype"), text("U14"), _FALSE, b"\x88"),
                           b"C\x38" + "bn.running_var".encode("utf-32-le")) + _array(_BAD) + b"s"),
    ("unknown-call", "statistics that a call would make",
     dict_({key: call(name("math", "sqrt"), _int(4)) for key in _ARRAYS})),
    ("shadowed-buffer", "a module that has a buffer's name as a plain attribute, too",
     name("torch.nn.modules.batchnorm", "BatchNorm2d") + b")\x81"
     + dict_({"_modules": b"}", "_parameters": b"}", "_buffers": dict_(
         {"running_mean": _array(_GOOD), "running_var": _array(_GOOD)}),
         "running_var": _array(_BAD)}) + b"b"),
):  # fmt: skip
    add(f"plain-{_name}", REFUSED, _what, partial(_plain, body=_body))


# --- calls that alter what was made before: torch.load runs them with weights_only=False ----------


_MODULE = (
    name("torch.nn.modules.batchnorm", "BatchNorm2d") + b")\x81" + put(8)
    + dict_({"_modules": b"}", "_parameters": b"}",
             "_buffers": dict_({"running_mean": _SHOWN, "running_var": _SHOWN})}) + b"b"
)  # fmt: skip
for _name, _what, _body in (
    ("setitem", "a state dict of which a call replaces an entry",
     dict_({"state_dict": dict_(_SOUND) + put(8),
            "x": call(name("operator", "setitem"), get(8), text("bn.running_var"), _HIDDEN)})),
    ("dict-update", "a state dict that a call updates",
     dict_({"state_dict": dict_(_SOUND) + put(8),
            "x": call(name("builtins", "dict.update"), get(8), dict_(_SICK))})),
    ("setattr", "a module of which a call replaces a buffer",
     dict_({"model": _MODULE,
            "x": call(name("builtins", "setattr"), get(8), text("running_var"), _HIDDEN)})),
    ("fill", "a tensor that a call fills",
     dict_(_MEAN | {"bn.running_var": _SHOWN + put(8)}
           | {"x": call(name("torch", "Tensor.fill_"), get(8), _int(-1))})),
    ("fill-in-a-list", "tensors in a list that a call fills",
     dict_(_MEAN | {"bn.running_var": _SHOWN + put(8)}
           | {"x": call(name("torch", "_foreach_neg_"), b"]" + get(8) + b"a")})),
    ("fill-a-view", "another view of its storage that a call fills",
     dict_(_SOUND | {"x": call(name("torch", "Tensor.fill_"), _SHOWN, _int(-1))})),
):  # fmt: skip
    add(f"altered-by-{_name}", REFUSED, _what, partial(_packed, body=_body))
