"""What the nodes of an inert pickle hold: entries of dicts, members of sets, modules' attributes.

torch writes an nn.Module as an object whose state is its `__dict__`.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from bncheck.core.errors import BncheckError
from bncheck.reading.calls import ARRAY_MODULES, ENCODE
from bncheck.reading.pickle_values import (
    MAPPINGS,
    Global,
    Node,
    OpaqueTensor,
    TensorView,
    Value,
)


def entries(value: Value) -> Sequence[tuple[Value, Value]] | None:
    """The key-value pairs of a dict-like node, or None."""
    if not isinstance(value, Node):
        return None
    return value.entries if value.is_call_of(MAPPINGS) else value.entries or None


def members(value: Value) -> Sequence[Value]:
    """The members of a pickled set: what was added, or in protocol 2 its one argument."""
    if not isinstance(value, Node):
        return ()
    first = value.args[0] if value.args else ()
    return value.items or (first if isinstance(first, list) else ())


def by_name(value: Value) -> dict[str, Value]:
    """The entries of a dict-like node whose keys are names; looked up once for each node.

    Raises BncheckError where a key that is not text may be equal to one that is.
    """
    if not isinstance(value, Node):
        return {}
    if value.by_name is None:
        pairs = entries(value) or ()
        names = {key: item for key, item in pairs if isinstance(key, str)}
        others = _byte_names(pairs, bool(names)) if len(names) < len(pairs) else {}
        if not names.keys().isdisjoint(others):
            raise BncheckError("has a name twice, as text and as bytes", "save it again")
        value.by_name = {**names, **others}
    return value.by_name


def _byte_names(pairs: Sequence[tuple[Value, Value]], beside_text: bool) -> dict[str, Value]:
    """Names of Python 2, and of whoever calls for them: a call may return any text."""
    read = [(key if (data := encoded(key)) is None else data, item) for key, item in pairs]
    found = {
        key.decode("utf-8", "backslashreplace"): item
        for key, item in read
        if isinstance(key, bytes)
    }
    made = [pair for pair in read if isinstance(pair[0], Node)]
    if made and (beside_text or found or any(_is_numeric(part) for pair in made for part in pair)):
        raise BncheckError("has a name computed by a call", "save it again")
    return found


def encoded(value: Value) -> bytes | None:
    """Bytes as Python 3 writes them in protocol 2: a call with text whose code points they are."""
    if not (isinstance(value, Node) and value.is_call_of({ENCODE})):
        return None
    text, codec = value.args if len(value.args) == 2 else (None, None)
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise BncheckError("encodes text in a way that no pickler does", "save it again")
    return text.encode("latin-1")


def _is_numeric(value: Value) -> bool:
    """A tensor, or an array or a text of NumPy."""
    if isinstance(value, Node):
        return isinstance(value.function, Global) and value.function.module in ARRAY_MODULES
    return isinstance(value, (TensorView, OpaqueTensor))


def children(value: Node) -> Iterator[tuple[str, Value]]:
    """What a dict-like node holds, each key with its last value; a key without a name is "?"."""
    named, pairs = by_name(value), entries(value) or ()
    yield from named.items()
    if len(named) < len(pairs):
        numbered: dict[int, Value] = {}
        for key, item in pairs:
            if isinstance(key, (int, float)) and abs(key) < 1 << 53 and key == int(key):
                numbered[int(key)] = item  # 0, False and 0.0 are one key
            elif not isinstance(key, (str, bytes)):
                yield "?", item
        yield from ((str(key), item) for key, item in numbered.items())


def attributes(value: Value) -> Mapping[str, Value]:
    """The `__dict__` of an object node; empty where it has none."""
    if not isinstance(value, Node):
        return {}
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:  # (__dict__, slots)
        return ChainMap(by_name(state[1]), by_name(state[0]))
    if state is None and value.args and isinstance(value.function, Global):
        # torch.fx.GraphModule and packages pass the __dict__ as the first argument.
        return by_name(value.args[0])
    return by_name(state)


def is_module(value: Value) -> bool:
    """Whether a node is a pickled nn.Module."""
    own = attributes(value)
    if not all(name in own for name in ("_modules", "_parameters", "_buffers")):
        return False
    if isinstance(own, ChainMap):
        raise BncheckError("holds a module with slots", "save its state dict")
    return True


def registered(own: Mapping[str, Value]) -> dict[str, Value]:
    """The parameters and buffers of a module, by their own names.

    Raises BncheckError where the module would use another tensor under the name of one of them.
    """
    parameters, buffers = by_name(own.get("_parameters")), by_name(own.get("_buffers"))
    if not parameters.keys().isdisjoint(buffers) or any(
        name in own for name in chain(parameters, buffers)
    ):
        raise BncheckError("holds a module with two attributes of one name", "save its state dict")
    return {**parameters, **buffers}
