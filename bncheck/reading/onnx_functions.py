"""The functions of an ONNX model, written out where they are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx.inliner

from bncheck.core.errors import BncheckError, quoted
from bncheck.core.limits import MAX_EXPANDED_BYTES
from bncheck.reading.kinds import NormKind, kind_of_class
from bncheck.reading.onnx_doubts import EXPORT_AGAIN, graphs_in
from bncheck.reading.onnx_names import STANDARD, text

#: What an empty node takes in memory.
_NODE_BYTES = 160
#: Functions call functions, but not to this depth, nor in a circle.
_DEEPEST = 64

#: What a function is called by: domain, name, overload.
_Key = tuple[str, str, str]


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of its functions in place of their calls.

    Raises BncheckError where these would fill the memory, stand in the place of standard operators,
    or hide BatchNorms all the same.
    """
    if not model.functions:
        return model
    for function in model.functions:
        if text(function.domain) in STANDARD:
            raise BncheckError(
                f"has a function {quoted(text(function.name))} in place of a standard operator",
                EXPORT_AGAIN,
            )
    _check_expansion(model)
    try:
        plain: onnx.ModelProto = onnx.inliner.inline_local_functions(_with_defaults(model))
    except Exception as error:
        raise BncheckError(
            f"has functions that cannot be inlined ({type(error).__name__})",
            "export it again without functions",
        ) from None
    if any(_has_norm(function.node) for function in plain.functions):
        raise BncheckError(
            "keeps BatchNorms in functions that nothing calls or that are of another opset",
            "inline them: onnx.inliner.inline_local_functions(model, convert_version=True)",
        )
    return plain


def _with_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model whose calls give all attributes: the inliner drops those left to their defaults."""
    defaults = {_key(f): f.attribute_proto for f in model.functions if f.attribute_proto}
    if not defaults:
        return model
    full = onnx.ModelProto()
    full.CopyFrom(model)
    for nodes in (full.graph.node, *(function.node for function in full.functions)):
        for node in _all(nodes):
            given = {attribute.name for attribute in node.attribute}
            left_out = (a for a in defaults.get(_called(node), ()) if a.name not in given)
            node.attribute.extend(left_out)
    return full


def _has_norm(nodes: Sequence[onnx.NodeProto]) -> bool:
    return any(kind_of_class(text(node.op_type)) is NormKind.BATCH for node in _all(nodes))


def _check_expansion(model: onnx.ModelProto) -> None:
    """Functions that call functions twice double with each level."""
    bodies = {_key(f): f.node for f in model.functions}
    own = {key: _size(nodes) for key, nodes in bodies.items()}
    calls = {key: [k for k in _calls(nodes) if k in bodies] for key, nodes in bodies.items()}
    sizes: dict[_Key, int] = {}
    for _ in range(_DEEPEST):
        before, sizes = (
            sizes,
            {
                key: size + sum(sizes.get(called, 0) for called in calls[key])
                for key, size in own.items()
            },
        )
        if sizes == before:
            break
    whole = sum(sizes.get(key, 0) for key in _calls(model.graph.node))
    if sizes != before or whole > 4 * model.ByteSize() + MAX_EXPANDED_BYTES:
        raise BncheckError(
            "has functions that become too large when inlined (limit MAX_EXPANDED_BYTES)",
            "check where it comes from",
        )


def _size(nodes: Sequence[onnx.NodeProto]) -> int:
    return sum(_NODE_BYTES + node.ByteSize() for node in nodes)


def _calls(nodes: Sequence[onnx.NodeProto]) -> Iterator[_Key]:
    return map(_called, _all(nodes))


def _key(function: onnx.FunctionProto) -> _Key:
    return function.domain, function.name, function.overload


def _called(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _all(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those in the graphs inside them."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        for graph in graphs_in(node):
            stack += graph.node
