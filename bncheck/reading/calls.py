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
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.reading.pickle_values import (
    COUNTER,
    DEFAULTDICT,
    DICT,
    MAPPINGS,
    Global,
    Node,
    OpaqueTensor,
    StorageReference,
    TensorView,
    Value,
    is_dict,
)
from bncheck.reading.rebuilding import (
    AGAIN,
    DISTRUST,
    LOAD_FROM_BYTES,
    Args,
    is_flags,
    rebuilt,
    replaced,
)

#: Counts entries that are copied: a small file could have large dicts copied over and over.
Charge: TypeAlias = Callable[[int], None]

ENCODE: Final = Global("_codecs", "encode")
BYTES: Final = frozenset((Global("builtins", "bytes"), Global("builtins", "bytearray")))
_SETS: Final = frozenset((Global("builtins", "set"), Global("builtins", "frozenset")))
ARRAY_MODULES: Final = frozenset(
    f"numpy.{core}.{module}" for core in ("core", "_core") for module in ("multiarray", "numeric")
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
_HANDED_OVER: Final = BncheckError("passes a tensor to a call that may change it", AGAIN)
_ALIASES: Final = ("torch.", "collections.", "builtins.", "_codecs.")
_DICT_METHODS: Final = frozenset(dir(OrderedDict)) | frozenset(dir(Counter))


def canonical(module: str, name: str) -> Global:
    """The global that torch and pickle find under this name: Python 2's names, dotted names."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[module, name]
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    if "." in name and f"{module}.{name}".startswith(_ALIASES):
        module, _, name = f"{module}.{name}".rpartition(".")
    return Global("torch._tensor" if module == "torch.tensor" else module, name)


def called(function: Value, args: Args, charge: Charge) -> Value:
    """What `function(*args)` gives."""
    if not isinstance(function, Global):
        return Node(function, args)
    if function in MAPPINGS:
        return Node(function, (), _content(function, args, charge))
    if function == _RECONSTRUCTOR and len(args) == 3 and args[1] == DICT and is_dict(args[2]):
        charge(len(args[2].entries))  # a subclass of dict, before protocol 2
        return Node(args[0], (), list(args[2].entries))
    known = rebuilt(function, args) if function.module.partition(".")[0] == "torch" else None
    if known is not None:
        return known
    if function not in _VALUES:
        _hand_over(function, args, charge)
    return Node(function, args)


def _hand_over(function: Global, args: Args, charge: Charge) -> None:
    """An unknown call may write into the tensors that it is given, and so into their storages.

    Python's own functions may alter any object (`setattr`, `operator.setitem`), but for a few.
    """
    for arg in _with_members(args, charge):
        if isinstance(arg, TensorView):
            arg.flaw = _HANDED_OVER
            if isinstance(arg.storage, StorageReference):
                arg.storage.flaw = arg.flaw
        elif isinstance(arg, Node) and function.module in _PYTHON and function.name not in _PURE:
            raise BncheckError(f"calls {function!s:.60} on what it holds", DISTRUST)


def _with_members(args: Args, charge: Charge) -> Iterator[Value]:
    for arg in args:
        if isinstance(arg, (list, tuple)):
            charge(len(arg))
            yield from arg
        else:
            yield arg


def created(kind: Value, args: Args, keywords: bool, charge: Charge) -> Value:
    """What `kind.__new__(kind, *args)` gives."""
    if not isinstance(kind, Global):
        return Node(kind, args)
    if kind in _FILLED_BY_INIT:
        return Node(kind)
    if keywords and _is_followed(kind):
        raise BncheckError(f"creates a {kind.name} with named arguments", DISTRUST)
    return called(kind, args, charge)


def set_state(target: Value, state: Value) -> None:
    """What BUILD does to `target`. Raises BncheckError for what has no state, or one already."""
    if isinstance(target, (TensorView, OpaqueTensor)):
        if not is_flags(state):
            target.flaw = replaced()
        return
    if not isinstance(target, Node) or target.is_call_of(_VALUES | {DICT}):
        raise BncheckError("sets the state of a value that has none", DISTRUST)
    if target.state is not None:
        raise BncheckError("sets the state of an object twice", DISTRUST)
    if target.is_call_of(MAPPINGS) and not _is_metadata(state):
        raise BncheckError("sets a method of a dict", DISTRUST)
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


def _content(function: Global, args: Args, charge: Charge) -> Sequence[tuple[Value, Value]]:
    """The entries of a dict that is made of pairs (as Python 2 wrote them) or of another dict."""
    if function == DEFAULTDICT:
        args = args[1:]
    if not args:
        return ()
    source = args[0]
    if len(args) == 1 and isinstance(source, Node) and source.is_call_of(MAPPINGS):
        charge(len(source.entries))
        return list(source.entries)
    if len(args) > 1 or function == COUNTER or not isinstance(source, (list, tuple)):
        raise BncheckError(f"creates a {function.name} from something that is not a dict", AGAIN)
    charge(len(source))
    return [_pair(item) for item in source]


def _pair(item: Value) -> tuple[Value, Value]:
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise BncheckError("creates a dict from something that is not a list of pairs", AGAIN)
    return item[0], item[1]


def _is_metadata(state: Value) -> bool:
    """Attributes of a dict that hide none of its methods: `_metadata` of a state dict."""
    return is_dict(state) and all(
        isinstance(name, str) and name not in _DICT_METHODS for name, _ in state.entries
    )
