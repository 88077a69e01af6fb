"""What the calls of a pickle give, without making them.

`torch.load(weights_only=True)` allows some two hundred globals to be called, and hands states to
what they return: torch/_weights_only_unpickler.py. A call that decides which numbers a tensor has
is followed here exactly, at the moment at which it would be made, because its arguments may still
change. What is not followed exactly gives an `OpaqueTensor`, or the file is refused; nothing is
skipped. Calls of other classes (of whole modules, optimizers, configurations) stay nodes.
"""

from __future__ import annotations

import _compat_pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias, TypeGuard

from bncheck.core.errors import BncheckError
from bncheck.reading.pickle_values import (
    DICT,
    Global,
    Node,
    OpaqueTensor,
    Persistent,
    StorageReference,
    TensorView,
    Value,
)
from bncheck.reading.tensors import MOST_AXES

#: Counts entries that are copied: a small file could have large dicts copied over and over.
Charge: TypeAlias = Callable[[int], None]
_Args: TypeAlias = tuple[Value, ...]

_AGAIN: Final = "save it again with torch.save"
_DISTRUST: Final = f"do not trust it; {_AGAIN}"

LOAD_FROM_BYTES: Final = Global("torch.storage", "_load_from_bytes")
ENCODE: Final = Global("_codecs", "encode")
SIZE: Final = Global("torch", "Size")
BYTES: Final = frozenset((Global("builtins", "bytes"), Global("builtins", "bytearray")))
_SETS: Final = frozenset((Global("builtins", "set"), Global("builtins", "frozenset")))
_COUNTER: Final = Global("collections", "Counter")
_DEFAULTDICT: Final = Global("collections", "defaultdict")
MAPPINGS: Final = frozenset((DICT, Global("collections", "OrderedDict"), _COUNTER, _DEFAULTDICT))
ARRAY_MODULES: Final = frozenset(
    f"numpy.{core}.{module}" for core in ("core", "_core") for module in ("multiarray", "numeric")
)
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
#: What has neither items nor a state that could be set.
_VALUES: Final = _SETS | BYTES | {LOAD_FROM_BYTES, ENCODE, Global("builtins", "complex")}
#: Makes an empty one with NEWOBJ, whatever the arguments: they fill themselves in __init__.
_FILLED_BY_INIT: Final = MAPPINGS | {Global("builtins", "set"), Global("builtins", "bytearray")}
_RECONSTRUCTOR: Final = Global("copyreg", "_reconstructor")
_PYTHON: Final = frozenset(("builtins", "builtins.dict", "operator", "_operator"))
_PURE: Final = frozenset(
    (
        *("getattr", "tuple", "list", "map", "filter", "zip", "enumerate", "reversed", "iter"),
        *("slice", "range", "object", "super", "type", "str", "int", "float", "bool", "property"),
        *("itemgetter", "attrgetter", "methodcaller"),
    )
)
_ALIASES: Final = ("torch.", "collections.", "builtins.", "_codecs.")
#: Attributes of a tensor that write numbers: into itself, and into all that share its storage.
_WRITING: Final = frozenset(("data", "real", "imag"))
_DICT_METHODS: Final = frozenset(dir(OrderedDict)) | frozenset(dir(Counter))


def canonical(module: str, name: str) -> Global:
    """The global that torch and pickle find under this name: Python 2's names, dotted names."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[module, name]
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    if "." in name and f"{module}.{name}".startswith(_ALIASES):
        module, _, name = f"{module}.{name}".rpartition(".")
    return Global("torch._tensor" if module == "torch.tensor" else module, name)


def called(function: Value, args: _Args, charge: Charge) -> Value:
    """What `function(*args)` gives."""
    if not isinstance(function, Global):
        return Node(function, args)
    if function in MAPPINGS:
        return Node(function, (), _content(function, args, charge))
    if function == _RECONSTRUCTOR and len(args) == 3 and args[1] == DICT and _is_dict(args[2]):
        charge(len(args[2].entries))  # a subclass of dict, before protocol 2
        return Node(args[0], (), list(args[2].entries))
    known = _torch_call(function, args) if function.module.partition(".")[0] == "torch" else None
    if known is not None:
        return known
    if function not in _VALUES:
        _hand_over(function, args)
    return Node(function, args)


def _hand_over(function: Global, args: _Args) -> None:
    """An unknown call may write into the tensors that it is given, and so into their storages.

    Python's own functions may alter any object (`setattr`, `operator.setitem`), but for a few.
    """
    for arg in args:
        if isinstance(arg, TensorView):
            arg.flaw = _handed(function)
            if isinstance(arg.storage, StorageReference):
                arg.storage.flaw = arg.flaw
        elif isinstance(arg, Node) and function.module in _PYTHON and function.name not in _PURE:
            raise BncheckError(f"calls {function!s:.60} on what it holds", _DISTRUST)


def _handed(function: Global) -> BncheckError:
    return BncheckError(f"hands a tensor to a call that may change it ({function!s:.60})", _AGAIN)


def created(kind: Value, args: _Args, keywords: bool, charge: Charge) -> Value:
    """What `kind.__new__(kind, *args)` gives."""
    if not isinstance(kind, Global):
        return Node(kind, args)
    if kind in _FILLED_BY_INIT:
        return Node(kind)
    if keywords and _is_followed(kind):
        raise BncheckError(f"makes a {kind.name} with named arguments", _DISTRUST)
    return called(kind, args, charge)


def set_state(target: Value, state: Value) -> None:
    """What BUILD does to `target`. Raises BncheckError for what has no state, or one already."""
    if isinstance(target, (TensorView, OpaqueTensor)):
        if not _is_flags(state):
            target.flaw = _replaced()
        return
    if not isinstance(target, Node) or target.is_call_of(_VALUES | {DICT}):
        raise BncheckError("sets the state of a value that has none", _DISTRUST)
    if target.state is not None:
        raise BncheckError("sets the state of an object twice", _DISTRUST)
    if target.is_call_of(MAPPINGS) and not _is_metadata(state):
        raise BncheckError("sets a method of a dict", _DISTRUST)
    target.state = state


def takes_items(target: Value, keyed: bool) -> bool:
    """Whether items may be set on (or appended to) `target`: not on a tensor, whom it changes."""
    if not isinstance(target, Node):
        return False
    if isinstance(target.function, Global) and target.function.module in ARRAY_MODULES:
        return False
    return not target.is_call_of(_VALUES if keyed else MAPPINGS | _VALUES - _SETS)


def _is_followed(function: Global) -> bool:
    return function.module.partition(".")[0] == "torch" or function in _VALUES


# -- dicts -----------------------------------------------------------------------------------------


def _content(function: Global, args: _Args, charge: Charge) -> Sequence[tuple[Value, Value]]:
    """The entries of a dict that is made of pairs (as Python 2 wrote them) or of another dict."""
    if function == _DEFAULTDICT:
        args = args[1:]
    if not args:
        return ()
    source = args[0]
    if len(args) == 1 and isinstance(source, Node) and source.is_call_of(MAPPINGS):
        charge(len(source.entries))
        return list(source.entries)
    if len(args) > 1 or function == _COUNTER or not isinstance(source, (list, tuple)):
        raise BncheckError(f"makes a {function.name} of what is not a dict", _AGAIN)
    charge(len(source))
    return [_pair(item) for item in source]


def _pair(item: Value) -> tuple[Value, Value]:
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise BncheckError("makes a dict of what is not a list of pairs", _AGAIN)
    return item[0], item[1]


def _is_metadata(state: Value) -> bool:
    """Attributes of a dict that hide none of its methods: `_metadata` of a state dict."""
    return _is_dict(state) and all(
        isinstance(name, str) and name not in _DICT_METHODS for name, _ in state.entries
    )


def _is_dict(value: Value) -> TypeGuard[Node]:
    return isinstance(value, Node) and value.is_call_of(MAPPINGS)


# -- tensors ---------------------------------------------------------------------------------------


def _torch_call(function: Global, args: _Args) -> Value | None:
    """A tensor or a size, or None where the call is not one that is known."""
    if rebuild := _REBUILD.get(function):
        return rebuild(args)
    if function == SIZE:
        return integers(args[0] if len(args) == 1 else None)
    if function in _PARAMETERS:
        return _wrapped(args[0]) if args else _opaque("empty parameter")
    if function in _FROM_TYPE:
        return _from_type(args)
    module, name = function
    if name.startswith("_rebuild_") and module == "torch._utils":
        return _opaque(name.removeprefix("_rebuild_").replace("_", " ")[:40])
    if name.endswith(("Tensor", "UninitializedParameter", "UninitializedBuffer")):
        return _opaque(f"{name[:40]} made by its class")
    return None


def _opaque(kind: str) -> OpaqueTensor:
    sentence = f"holds a tensor of a kind that bncheck does not read ({kind})"
    return OpaqueTensor(BncheckError(sentence, "save it as a plain tensor"))


def _malformed() -> BncheckError:
    return BncheckError("holds a malformed description of a tensor", "save it again")


def _replaced() -> BncheckError:
    return BncheckError(
        "holds a tensor whose numbers are replaced by a second description", _DISTRUST
    )


def _strided(args: _Args, fewest: int, most: int) -> TensorView:
    """`_rebuild_tensor(storage, offset, size, stride, ...)` with so many arguments."""
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
        view.flaw = _opaque("of a storage that a call makes").flaw
    elif isinstance(storage, StorageReference):
        view.flaw = _lost(storage)
    return view


def _lost(storage: StorageReference) -> BncheckError | None:
    """Why the numbers of a storage are not those of the tensors that torch makes of it."""
    if storage.location == "meta":
        return _opaque("of the device meta, which has no numbers").flaw
    return _opaque("quantized").flaw if storage.kind.startswith("Q") else None


def _rebuild_tensor(args: _Args) -> Value:
    return _strided(args, 4, 4)


def _rebuild_tensor_v2(args: _Args) -> Value:
    view = _strided(args, 6, 7)
    view.flaw = view.flaw or _signs(args[6:])
    return view


def _rebuild_tensor_v3(args: _Args) -> Value:
    view = _strided(args, 7, 8)
    dtype = args[6]
    if not isinstance(dtype, Global) or dtype.module != "torch":
        return _opaque("of a dtype that a call makes")
    if dtype.name.startswith("q"):
        return _opaque("quantized")
    view.dtype, view.flaw = dtype.name, view.flaw or _signs(args[7:])
    return view


def _signs(metadata: _Args) -> BncheckError | None:
    """Why metadata makes other numbers of the stored ones: the negative or conjugate bit.

    torch sets a bit that is named, even where it is said to be False.
    """
    if not metadata or metadata[0] is None or (_is_dict(metadata[0]) and not metadata[0].entries):
        return None
    return BncheckError(
        "holds a tensor that is the negative or conjugate of what is stored",
        "save `tensor.resolve_neg().resolve_conj()`",
    )


def _rebuild_parameter(args: _Args) -> Value:
    if len(args) != 3:
        raise _malformed()
    return _wrapped(args[0])


def _rebuild_parameter_with_state(args: _Args) -> Value:
    if len(args) != 4:
        raise _malformed()
    return _with_attributes(_wrapped(args[0]), args[3])


def _wrapped(data: Value) -> TensorView | OpaqueTensor:
    """A parameter: another object of the same storage, so what is set on one leaves the other."""
    if isinstance(data, TensorView):
        return replace(data)
    return OpaqueTensor(data.flaw) if isinstance(data, OpaqueTensor) else _opaque("parameter")


def _from_type(args: _Args) -> Value:
    """A tensor of a subclass: (function, class, its arguments, the attributes of the instance)."""
    if len(args) != 4:
        raise _malformed()
    function, kind, arguments, state = args
    if (
        not isinstance(function, Global)
        or not isinstance(arguments, tuple)
        or function in _FROM_TYPE
    ):
        return _opaque("subclass")
    made = _torch_call(function, arguments) if isinstance(kind, Global) else None
    if not isinstance(made, (TensorView, OpaqueTensor)):
        return _opaque("subclass")
    return _with_attributes(made, state)


def _with_attributes(made: TensorView | OpaqueTensor, state: Value) -> Value:
    """Attributes, as a dict or as (dict, slots): `setattr(tensor, name, value)` for each."""
    parts = state if isinstance(state, tuple) else (state,)
    if len(parts) > 2:
        made.flaw = _replaced()
        return made
    for part in parts:
        if part is None:
            continue
        if not _is_dict(part):
            made.flaw = _replaced()
        elif any(not isinstance(name, str) or name in _WRITING for name, _ in part.entries):
            raise _replaced()  # `.real = ...` alters whatever shares the storage
    return made


def _is_flags(state: Value) -> bool:
    """requires_grad, volatile and backward hooks: the state of a Variable of torch 0.3."""
    if not isinstance(state, tuple) or len(state) != 3:
        return False
    return isinstance(state[0], bool) and (state[1] is None or isinstance(state[1], bool))


_REBUILD: Final[Mapping[Global, Callable[[_Args], Value]]] = {
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
