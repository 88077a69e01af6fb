"""What an ONNX model may say in two ways, of which runtimes take either.

Names are defined once in the ONNX specification, but not all runtimes insist on it:
https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError, quoted
from bncheck.reading.kinds import NormKind, is_norm_class, kind_of_class
from bncheck.reading.onnx_names import STANDARD, text

if TYPE_CHECKING:
    import onnx

EXPORT_AGAIN: Final = "do not trust it; export it again"
_DIGITS: Final = re.compile(r"[0-9]{1,18}")


def is_norm(node: onnx.NodeProto) -> bool:
    """Whether a node is a normalisation. Raises BncheckError for somebody's own BatchNorm."""
    kind = text(node.op_type)
    if kind_of_class(kind) is NormKind.BATCH and text(node.domain) not in STANDARD:
        raise BncheckError(
            f"calls a {quoted(kind)} of the domain {quoted(text(node.domain))}, which bncheck does "
            "not know",
            "export it with the standard operators",
        )
    return is_norm_class(kind)


def refuse_stored_twice(graph: onnx.GraphProto) -> None:
    """Refuse two initialisers of one name, dense or sparse."""
    seen: set[str] = set()
    for name in _stored(graph):
        if name in seen:
            raise _two_things(name)
        seen.add(name)


def refuse_hidden(graph: onnx.GraphProto) -> None:
    """Refuse an initialiser of an inner graph that has the name of something around it.

    onnxruntime hands the outer one in where the other branch reads it.
    """
    visible: set[str] = set()
    stack: list[tuple[onnx.GraphProto, set[str] | None]] = [(graph, None)]
    while stack:
        graph, added = stack.pop()
        if added is not None:  # its inner graphs are done
            visible -= added
            continue
        refuse_known(_stored(graph), visible)
        added = {*_stored(graph), *(text(i.name) for i in graph.input)}
        added.update(text(name) for node in graph.node for name in node.output)
        added -= visible
        visible |= added
        stack.append((graph, added))
        stack += [(inner, None) for node in graph.node for inner in graphs_in(node)]


def graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside an If, Loop or Scan node, not those inside them."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _stored(graph: onnx.GraphProto) -> list[str]:
    """The names of the initialisers of a graph, dense or sparse."""
    sparse = (tensor.values for tensor in graph.sparse_initializer)
    return [text(tensor.name) for tensor in chain(graph.initializer, sparse)]


def refuse_known(names: Iterable[str], constants: Container[str]) -> None:
    """Refuse names that are those of constants already."""
    for name in names:
        if name and name in constants:
            raise _two_things(name)


def _two_things(name: str) -> BncheckError:
    return BncheckError(
        f"uses the name {quoted(name)} twice, and runtimes differ in which they take",
        EXPORT_AGAIN,
    )


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the numbers of a tensor are not in the message."""
    return bool(tensor.data_location == tensor.EXTERNAL)


def external_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    """Where the data of a tensor lie: location, offset, length."""
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        key = text(entry.key)
        if key in entries:
            raise BncheckError(
                f"says twice where the data of {quoted(text(tensor.name))} are", EXPORT_AGAIN
            )
        entries[key] = text(entry.value)
    return entries


def whole(digits: str | None, default: int) -> int:
    """A number of digits and nothing else: what runtimes make of others differs."""
    if digits is None:
        return default
    if not _DIGITS.fullmatch(digits):
        raise BncheckError(
            f"has external data at {quoted(digits)}, which is not a whole number", EXPORT_AGAIN
        )
    return int(digits)
