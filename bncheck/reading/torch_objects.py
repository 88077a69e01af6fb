"""What the nodes of an inert pickle mean in torch: storages, tensors, dicts and modules.

torch writes a tensor as a call of one of `torch._utils._rebuild_*`, whose first arguments are its
storage (a persistent id), offset, shape and strides, and an nn.Module as an object whose state is
its `__dict__`: https://github.com/pytorch/pytorch/blob/main/torch/_utils.py
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.reading.pickle_values import DICT, Global, Node, Persistent, Span, Value
from bncheck.reading.source import Source
from bncheck.reading.tensors import (
    LazyTensor,
    LoadedTensor,
    Storage,
    StridedTensor,
    checked_shape,
    dtype_name,
    is_known_dtype,
    item_size,
    unknown_dtype,
)

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: Gives the bytes behind a storage reference: (key, dtype name, element count) -> Storage.
FindStorage: TypeAlias = Callable[[str, str, int], Storage]

#: Gives the storage that a whole torch file, embedded in a plain pickle, consists of.
FindNested: TypeAlias = Callable[[Source], "tuple[Storage, str]"]

#: Calls that make a tensor from a storage, and which of their arguments is a dict of its metadata.
_METADATA: Final = {
    "_rebuild_tensor": 4,
    "_rebuild_tensor_v2": 6,
    "_rebuild_tensor_v3": 7,
    "_rebuild_qtensor": 7,
}
_REBUILD_STRIDED: Final = _METADATA.keys()
#: Parameters in parameters: one is usual, four are an attack.
_MOST_WRAPPED: Final = 3

_WITH_STATE: Final = {Global("torch._utils", "_rebuild_parameter_with_state")}
_FLAGS: Final = 3  # requires_grad, volatile, backward hooks

#: Called with the tensor that they wrap; Variable until torch 0.4.
_WRAPPERS: Final = {
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
    Global("torch.nn.parameter", "Parameter"),
    Global("torch.nn.parameter", "Buffer"),
    Global("torch.autograd.variable", "Variable"),
}
_MAPPINGS: Final = {
    DICT,
    Global("__builtin__", "dict"),
    Global("collections", "OrderedDict"),
    Global("collections", "defaultdict"),
    Global("torch.nn.modules.container", "ParameterDict"),
}
_LOAD_FROM_BYTES: Final = {Global("torch.storage", "_load_from_bytes")}
_ENCODE: Final = {Global("_codecs", "encode")}
_BYTES: Final = {Global("builtins", "bytes"), Global("__builtin__", "bytes")}
_SIZE: Final = {Global("torch", "Size")}
_NUMPY_CODES: Final = {
    "b1",
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
}
_ARRAY_MODULES: Final = {
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "numpy.core.numeric",
    "numpy._core.numeric",
}


class TorchObjects:
    """Reads the nodes of one pickle; `pickle` is where its byte strings are."""

    def __init__(self, pickle: Source, find_storage: FindStorage, find_nested: FindNested) -> None:
        self._pickle = pickle
        self.budget = pickle.budget
        self._find_storage = find_storage
        self._find_nested = find_nested
        self._nested: dict[Span | int, tuple[Storage, str]] = {}

    def tensor(self, value: Value) -> LazyTensor | None:
        """The tensor that a node describes, or None for anything else.

        Raises BncheckError for one that says it is a tensor and cannot be one.
        """
        wrapped = 0
        while isinstance(value, Node) and value.is_call_of(_WRAPPERS) and value.args:
            _refuse_other_data(value)
            value, wrapped = value.args[0], wrapped + 1
            if wrapped > _MOST_WRAPPED:
                return None
        if not isinstance(value, Node) or not isinstance(value.function, Global):
            return None
        module, name = value.function
        try:
            if name in _REBUILD_STRIDED and module == "torch._utils":
                _refuse_other_data(value)
                return self._strided(name, value.args)
            if name == "_rebuild_from_type_v2" and module == "torch._tensor":
                rebuild, _, args, *_ = value.args
                known = rebuild if isinstance(rebuild, Global) else None
                if known and known.name in _REBUILD_STRIDED and isinstance(args, tuple):
                    return self._strided(known.name, args)
            if name == "_rebuild_device_tensor_from_numpy" and module == "torch._utils":
                return self._array(value.args[0])
            if module in _ARRAY_MODULES:
                return self._array(value)
            if name.startswith("_rebuild_") and module == "torch._utils":
                return LoadedTensor(lambda: _refuse_kind(name))
        except (IndexError, TypeError, ValueError):
            raise BncheckError(
                "holds a malformed description of a tensor", "save it again"
            ) from None
        return None

    def _strided(self, rebuild: str, args: tuple[Value, ...]) -> LazyTensor:
        storage, offset, shape, strides = args[:4]
        view_of, dtype = self.storage(storage)
        metadata = by_name(args[_METADATA[rebuild]]) if len(args) > _METADATA[rebuild] else {}
        if any(metadata.get(bit) is not False for bit in ("neg", "conj") if bit in metadata):
            return LoadedTensor(_refuse_lazy_sign)
        if rebuild == "_rebuild_tensor_v3" and isinstance(args[6], Global):
            name = args[6].name
            if not is_known_dtype(name):  # torch.float4_e2m1fn_x2, torch.uint3...
                return LoadedTensor(lambda: unknown_dtype(name))
            dtype = dtype_name(name)
        return StridedTensor(view_of, dtype, _integers(shape), _integers(strides), _integer(offset))

    def storage(self, value: Value) -> tuple[Storage, str]:
        """A storage and its dtype from its persistent id or, in a plain pickle, its bytes."""
        if isinstance(value, Persistent) and isinstance(value.pid, tuple):
            _, kind, key, _, elements, *view = value.pid
            if not isinstance(kind, Global) or not isinstance(key, str):
                raise ValueError
            dtype = storage_dtype(kind)
            storage = self._find_storage(key, dtype, _integer(elements))
            if view and isinstance(view[0], tuple):  # torch before 0.4: a part of a storage
                _, offset, length = view[0]
                storage = storage.part(_integer(offset), _integer(length), item_size(dtype))
            return storage, dtype
        if isinstance(value, Node) and value.is_call_of(_LOAD_FROM_BYTES):
            data = value.args[0]
            place = data if isinstance(data, Span) else id(data)
            if place not in self._nested:  # tensors may share it
                self._nested[place] = self._find_nested(self._bytes_source(data))
            return self._nested[place]
        raise ValueError

    def _bytes_source(self, value: Value) -> Source:
        if isinstance(value, Span):
            return self._pickle.window(value.offset, value.length)
        return self._pickle.within(self._raw(value))

    def _raw(self, value: Value) -> bytes:
        if isinstance(value, Span):
            return self._pickle.numbers(value.offset, value.length)
        if isinstance(value, str):  # a Python 2 str that happened to be text
            return value.encode()
        if isinstance(value, Node) and value.is_call_of(_ENCODE) and value.args:
            # How Python 3 writes bytes in protocol 2: text whose code points are the bytes.
            text = value.args[0]
            return text.encode("latin-1") if isinstance(text, str) else b""
        if isinstance(value, Node) and value.is_call_of(_BYTES):
            return b""
        if isinstance(value, bytes):
            return value
        raise BncheckError("holds an array without its bytes", "save it again")

    def _array(self, value: Value) -> LazyTensor | None:
        """A NumPy array: `_reconstruct(...)` with a state, `_frombuffer(...)` or a scalar."""
        if not isinstance(value, Node) or not isinstance(value.function, Global):
            return None
        name = value.function.name
        if name == "_reconstruct" and isinstance(value.state, tuple):
            _, shape, dtype, fortran, raw = value.state
        elif name == "_frombuffer":
            raw, dtype, shape, order = value.args
            fortran = order == "F"
        elif name == "scalar" and len(value.args) == 2:
            (dtype, raw), shape, fortran = value.args, (), False
        else:
            return None
        code = _numpy_code(dtype)
        if code is None:
            return None
        sizes = checked_shape(_integers(shape))
        return LoadedTensor(lambda: _to_array(self._bytes(raw), code, sizes, bool(fortran)), sizes)

    def _bytes(self, value: Value) -> bytes:
        try:
            return self._raw(value)
        except ValueError:  # text whose letters are no bytes
            raise BncheckError("holds an array without its bytes", "save it again") from None


@lru_cache(maxsize=64)  # asked for every tensor, and there are a dozen
def storage_dtype(kind: Global) -> str:
    """`torch.FloatStorage` -> float32."""
    name = kind.name
    if name in ("UntypedStorage", "TypedStorage"):
        return "uint8"
    stem = name.removesuffix("Storage")
    special = {"BFloat16": "bfloat16", "ComplexFloat": "complex64", "ComplexDouble": "complex128"}
    return dtype_name(special.get(stem, stem.lower()))


def _refuse_other_data(call: Node) -> None:
    """A state may give a tensor other numbers than the call has: `set_(*state)`, `.data = ...`.

    torch.load does so even with weights_only. A Variable of torch 0.3 has a state of three flags.
    """
    states = [call.state, *call.args[3:4]] if call.is_call_of(_WITH_STATE) else [call.state]
    for state in states:
        parts = state if isinstance(state, tuple) else (state,)
        twice = any(isinstance(part, tuple) for part in parts)
        if twice or len(parts) > _FLAGS or any("data" in by_name(part) for part in parts):
            raise BncheckError(
                "holds a tensor whose numbers are replaced by a second description",
                "do not trust it; save it again with torch.save",
            )


def _refuse_lazy_sign() -> Array:
    raise BncheckError(
        "holds a tensor that is the negative or conjugate of what is stored",
        "save `tensor.resolve_neg().resolve_conj()`",
    )


def _refuse_kind(rebuild: str) -> Array:
    kind = rebuild.removeprefix("_rebuild_").replace("_", " ")[:40]
    raise BncheckError(
        f"holds a tensor of a kind that bncheck does not read ({kind})", "save it as a plain tensor"
    )


def _numpy_code(dtype: Value) -> str | None:
    """`numpy.dtype('f4', ...)` with state ('<', ...) -> '<f4'; None for records and objects."""
    if not isinstance(dtype, Node) or not dtype.args or not isinstance(dtype.args[0], str):
        return None
    code = dtype.args[0]
    if code not in _NUMPY_CODES:
        return None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "="
    return f"{order}{code}" if order in ("<", ">") else code


def _to_array(raw: bytes, code: str, shape: tuple[int, ...], fortran: bool) -> Array:
    import numpy as np

    dtype = np.dtype(code)
    if len(raw) != dtype.itemsize * math.prod(shape):
        raise BncheckError("holds an array whose bytes do not fit its shape", "save it again")
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype=dtype.newbyteorder("="))


def _integer(value: Value) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError
    return value


def _integers(value: Value) -> tuple[int, ...]:
    if isinstance(value, Node) and value.is_call_of(_SIZE):
        value = value.args[0]
    if not isinstance(value, (tuple, list)):
        raise ValueError
    return tuple(_integer(item) for item in value)


def entries(value: Value) -> Sequence[tuple[Value, Value]] | None:
    """The key-value pairs of a dict-like node, or None."""
    if not isinstance(value, Node):
        return None
    if not value.is_call_of(_MAPPINGS):
        return value.entries or None
    first = value.args[0] if value.args else None
    if isinstance(first, (list, tuple)) and first:  # Python 2: OrderedDict([[k, v], ...])
        pairs = [(p[0], p[1]) for p in first if isinstance(p, (list, tuple)) and len(p) == 2]
        return [*pairs, *value.entries]
    if isinstance(first, Node):  # no pickler writes that, and the other may still grow
        raise BncheckError("holds a dict made of another", "save it again with torch.save")
    return value.entries


def members(value: Value) -> Sequence[Value]:
    """The members of a pickled set: what was added, or in protocol 2 its one argument."""
    if not isinstance(value, Node):
        return ()
    first = value.args[0] if value.args else ()
    return value.items or (first if isinstance(first, list) else ())


def by_name(value: Value) -> dict[str, Value]:
    """The entries of a dict-like node whose keys are names; looked up once for each node."""
    if not isinstance(value, Node):
        return {}
    if value.by_name is None:
        value.by_name = {
            key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else key: item
            for key, item in entries(value) or ()
            if isinstance(key, (str, bytes))
        }
    return value.by_name


def attributes(value: Value) -> Mapping[str, Value]:
    """The `__dict__` of an object node; empty where it has none."""
    if not isinstance(value, Node):
        return {}
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:  # (__dict__, slots) or (later, earlier)
        if isinstance(state[1], tuple):
            raise BncheckError("sets the state of an object over and over", "save it again")
        return ChainMap(by_name(state[0]), by_name(state[1]))
    if state is None and value.args and isinstance(value.function, Global):
        # torch.fx.GraphModule and packages pass the __dict__ as the first argument.
        return by_name(value.args[0])
    return by_name(state)


def is_module(value: Value) -> bool:
    """Whether a node is a pickled nn.Module."""
    own = attributes(value)
    return all(name in own for name in ("_modules", "_parameters", "_buffers"))
