"""The calls of a `.pt2` program, as its JSON lists them: torch/_export/serde/schema.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bncheck.reading.exported_weights import DTYPES
from bncheck.reading.listing import BETWEEN, ListedCall, Listing, Ref, Sizes

_ATEN: Final = "torch.ops.aten."
_PLAIN: Final = ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools")
#: Mixed lists, whose items are arguments themselves.
_LISTS: Final = ("as_sym_ints", "as_optional_tensors")


def listed_calls(program: Mapping[str, Any], weights: Mapping[str, str]) -> Listing:
    """The calls of its graph; `weights` are the names of graph inputs in the model.

    What stands in a graph inside a call is left out. Raises KeyError, TypeError or AttributeError
    where the JSON is malformed.
    """
    graph = program["graph_module"]["graph"]
    names = Names(weights)
    values = graph["tensor_values"].items()
    return Listing(
        tuple(call_of(node, names) for node in graph["nodes"]),
        {names[name]: _sizes(value["sizes"]) for name, value in values},
        {names[name]: DTYPES.get(value["dtype"], "") for name, value in values},
    )


class Names(dict[str, str]):
    """The names of weights in the model, and `between` before those of other tensors."""

    def __init__(self, weights: Mapping[str, str], between: str = BETWEEN) -> None:
        super().__init__(weights)
        self._between = between

    def __missing__(self, name: str) -> str:
        return f"{self._between}{name}"


def call_of(node: Mapping[str, Any], names: Mapping[str, str]) -> ListedCall:
    """A node of a graph as a call; its operator is "" where it is none of aten's."""
    target = str(node["target"])
    operator = target.removeprefix(_ATEN).partition(".")[0] if target.startswith(_ATEN) else ""
    given = [(str(item["name"]), _value(item["arg"], names)) for item in node["inputs"]]
    outputs = tuple(names[name] for item in node["outputs"] for name in results_of(item))
    return ListedCall(operator, tuple(value for _, value in given), outputs, dict(given))


def results_of(item: Mapping[str, Any]) -> Iterator[str]:
    """The names of the tensors in one output of a node."""
    for tensor in item.get("as_tensors", [item["as_tensor"]] if "as_tensor" in item else []):
        yield str(tensor["name"])


def _value(argument: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """The argument; a symbol is a text, anything that is not known is None."""
    if "as_tensor" in argument:
        return Ref(names[str(argument["as_tensor"]["name"])])
    if "as_tensors" in argument:
        return tuple(Ref(names[str(tensor["name"])]) for tensor in argument["as_tensors"])
    if "as_sym_int" in argument:
        return _value(argument["as_sym_int"], names)
    if "as_name" in argument:
        return str(argument["as_name"])
    for kind in _LISTS:
        if kind in argument:
            return tuple(_value(item, names) for item in argument[kind])
    found = next((argument[kind] for kind in _PLAIN if kind in argument), None)
    return tuple(found) if isinstance(found, list) else found


def _sizes(sizes: list[Mapping[str, Any]]) -> Sizes:
    return tuple(size["as_int"] if isinstance(size.get("as_int"), int) else "?" for size in sizes)
