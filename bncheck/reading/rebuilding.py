"""The tensor that a call of torch makes of a storage: `torch._utils._rebuild_*` and its relatives.

https://github.com/pytorch/pytorch/blob/main/torch/_utils.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.reading.pickle_values import (
    Global,
    Node,
    OpaqueTensor,
    Persistent,
    StorageReference,
    TensorView,
    Value,
    is_dict,
)
from bncheck.reading.tensors import MOST_AXES

Args: TypeAlias = tuple[Value, ...]

AGAIN: Final = "save it again with torch.save"
DISTRUST: Final = f"do not trust it; {AGAIN}"
LOAD_FROM_BYTES: Final = Global("torch.storage", "_load_from_bytes")
_SIZE: Final = Global("torch", "Size")
_PARAMETERS: Final = frozenset(
    (
        Global("torch.nn.parameter", "Parameter"),
        Global("torch.nn.parameter", "Buffer"),
        Global("torch.autograd.variable", "Variable"),  # until torch 0.4
    )
)
_FROM_TYPE: Final = frozenset(
    (
        Global("torch._tensor", "_rebuild_from_type_v2"),
        Global("torch._tensor", "_rebuild_from_type"),
    )
)
_OTHER_KINDS: Final = frozenset(
    (
        *("sparse tensor", "sparse csr tensor", "nested tensor", "qtensor", "xla tensor"),
        *("meta tensor no storage", "wrapper subclass"),
        *("device tensor from numpy", "device tensor from cpu tensor"),
    )
)
_SIGNED: Final = BncheckError(
    "holds a tensor that is the negative or conjugate of what is stored",
    "save `tensor.resolve_neg().resolve_conj()`",
)
#: Attributes of a tensor that write numbers: into itself, and into all that share its storage.
_WRITING: Final = frozenset(("data", "real", "imag"))


def rebuilt(function: Global, args: Args) -> Value | None:
    """A tensor or a size, or None where the call is not one that is known."""
    if rebuild := _REBUILD.get(function):
        return rebuild(args)
    if function == _SIZE:
        return integers(args[0] if len(args) == 1 else None)
    if function in _PARAMETERS:
        return _wrapped(args[0]) if args else _opaque("empty parameter")
    if function in _FROM_TYPE:
        return _from_type(args)
    module, name = function
    if name.startswith("_rebuild_") and module == "torch._utils":
        kind = name.removeprefix("_rebuild_").replace("_", " ")
        return _opaque(kind if kind in _OTHER_KINDS else "rebuilt by an unknown function")
    if name in ("UninitializedParameter", "UninitializedBuffer"):
        return OpaqueTensor(_UNINITIALISED)
    if name.endswith("Tensor"):
        return _opaque("made by its class")
    return None


#: torch.nn.LazyBatchNorm2d and its like, before the first batch.
_UNINITIALISED: Final = BncheckError(
    "was saved before a lazy module had seen its first batch: a tensor has no size yet",
    "run the model once, and save it then",
)


# A file may ask for a million of these tensors, so the errors that say why are shared.
@cache
def _flaw(kind: str) -> BncheckError:
    sentence = f"holds a tensor of a kind that bncheck does not read ({kind})"
    return BncheckError(sentence, "save it as a plain tensor")


def _opaque(kind: str) -> OpaqueTensor:
    return OpaqueTensor(_flaw(kind))


def _malformed() -> BncheckError:
    return BncheckError("holds a malformed description of a tensor", "save it again")


@cache
def replaced() -> BncheckError:
    """For a tensor that has other numbers than the call gave it."""
    return BncheckError(
        "holds a tensor whose numbers are replaced by a second description", DISTRUST
    )


def _strided(args: Args, fewest: int, most: int) -> TensorView:
    """`_rebuild_tensor(storage, offset, size, stride, ...)` with this number of arguments."""
    if not fewest <= len(args) <= most:
        raise _malformed()
    storage, offset, shape, strides = args[:4]
    if not isinstance(offset, int) or isinstance(offset, bool):
        raise _malformed()
    view = TensorView(storage, offset, integers(shape), integers(strides))
    known = isinstance(storage, Node) and storage.is_call_of({LOAD_FROM_BYTES})
    if isinstance(storage, Persistent):
        raise _malformed()
    if not known and not isinstance(storage, StorageReference):
        view.flaw = _flaw("of a storage that a call makes")
    elif isinstance(storage, StorageReference):
        view.flaw = _lost(storage)
    return view


def _lost(storage: StorageReference) -> BncheckError | None:
    """Why the numbers of a storage are not those of the tensors that torch makes of it."""
    if storage.location == "meta":
        return _flaw("of the device meta, which has no numbers")
    return _flaw("quantized") if storage.kind.startswith("Q") else None


def _rebuild_tensor(args: Args) -> Value:
    return _strided(args, 4, 4)


def _rebuild_tensor_v2(args: Args) -> Value:
    view = _strided(args, 6, 7)
    view.flaw = view.flaw or _signs(args[6:])
    return view


def _rebuild_tensor_v3(args: Args) -> Value:
    view = _strided(args, 7, 8)
    dtype = args[6]
    if not isinstance(dtype, Global) or dtype.module != "torch":
        return _opaque("of a dtype that a call makes")
    if dtype.name.startswith("q"):
        return _opaque("quantized")
    view.dtype, view.flaw = dtype.name, view.flaw or _signs(args[7:])
    return view


def _signs(metadata: Args) -> BncheckError | None:
    """Why metadata makes other numbers of the stored ones: the negative or conjugate bit.

    torch sets a bit that is named, even where it is said to be False.
    """
    if not metadata or metadata[0] is None or (is_dict(metadata[0]) and not metadata[0].entries):
        return None
    return _SIGNED


def _rebuild_parameter(args: Args) -> Value:
    if len(args) != 3:
        raise _malformed()
    return _wrapped(args[0])


def _rebuild_parameter_with_state(args: Args) -> Value:
    if len(args) != 4:
        raise _malformed()
    return _with_attributes(_wrapped(args[0]), args[3])


def _wrapped(data: Value) -> TensorView | OpaqueTensor:
    """A parameter: another object of the same storage, so what is set on one leaves the other."""
    if isinstance(data, TensorView):
        return replace(data)
    return OpaqueTensor(data.flaw) if isinstance(data, OpaqueTensor) else _opaque("parameter")


def _from_type(args: Args) -> Value:
    """A tensor of a subclass: (function, class, its arguments, the attributes of the instance)."""
    if len(args) != 4:
        raise _malformed()
    function, kind, arguments, state = args
    # torch calls the function whatever it is, and the call may write into what it is given.
    if (
        not isinstance(function, Global)
        or not isinstance(arguments, tuple)
        or function in _FROM_TYPE
    ):
        raise replaced()
    made = rebuilt(function, arguments) if isinstance(kind, Global) else None
    if not isinstance(made, (TensorView, OpaqueTensor)):
        return _opaque("subclass")
    return _with_attributes(made, state)


def _with_attributes(made: TensorView | OpaqueTensor, state: Value) -> Value:
    """Attributes, as a dict or as (dict, slots): `setattr(tensor, name, value)` for each."""
    parts = state if isinstance(state, tuple) else (state,)
    if len(parts) > 2:
        made.flaw = replaced()
        return made
    for part in parts:
        if part is None:
            continue
        if not is_dict(part):
            made.flaw = replaced()
        elif any(not isinstance(name, str) or name in _WRITING for name, _ in part.entries):
            raise replaced()  # `.real = ...` alters whatever shares the storage
    return made


def is_flags(state: Value) -> bool:
    """requires_grad, volatile and backward hooks: the state of a Variable of torch 0.3."""
    if not isinstance(state, tuple) or len(state) != 3:
        return False
    return isinstance(state[0], bool) and (state[1] is None or isinstance(state[1], bool))


_REBUILD: Final[Mapping[Global, Callable[[Args], Value]]] = {
    Global("torch._utils", rebuild.__name__): rebuild
    for rebuild in (
        _rebuild_tensor,
        _rebuild_tensor_v2,
        _rebuild_tensor_v3,
        _rebuild_parameter,
        _rebuild_parameter_with_state,
    )
}


def integers(value: Value) -> tuple[int, ...]:
    """A shape or strides. Raises BncheckError for anything else than integers."""
    if not isinstance(value, (tuple, list)):
        raise _malformed()
    if len(value) > MOST_AXES or not all(type(item) is int for item in value):
        raise _malformed()
    return tuple(value)
