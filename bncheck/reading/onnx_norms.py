"""What a node of an ONNX graph says about its normalisation, for `inspect` and `fold` alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError, quoted
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.onnx_doubts import EXPORT_AGAIN
from bncheck.reading.onnx_names import owner, text

if TYPE_CHECKING:
    import onnx

    from bncheck.reading.onnx_constants import Constant

#: Input names of the nodes that carry parameters: https://onnx.ai/onnx/operators/
INPUTS: Final = {
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
    "InstanceNormalization": ("", "weight", "bias"),
    "GroupNormalization": ("", "weight", "bias"),
    "LayerNormalization": ("", "weight", "bias"),
}
#: What the attributes are that are read, by AttributeProto.AttributeType: FLOAT or INT.
_TYPES: Final = {"epsilon": 1, "momentum": 1, "training_mode": 2, "is_test": 2, "spatial": 2}


@dataclass(frozen=True, slots=True)
class NormNode:
    """A normalisation's settings. `momentum` is in ONNX' convention.

    `trains`: it normalises with statistics of the batch. `spatial` is False where it has statistics
    of its own for each position, not for each channel.
    """

    eps: float
    momentum: float
    trains: bool
    spatial: bool


def norm_node(node: onnx.NodeProto, opset: int) -> NormNode:
    """What the attributes of a BatchNormalization or one of its relatives say."""
    given = _attributes(node)
    return NormNode(
        eps=round_to_decimal(given["epsilon"].f) if "epsilon" in given else 1e-5,
        momentum=round_to_decimal(given["momentum"].f) if "momentum" in given else 0.9,
        trains=_trains(node, {name: attribute.i for name, attribute in given.items()}, opset),
        spatial="spatial" not in given or opset >= 9 or given["spatial"].i != 0,
    )


def _attributes(node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
    """By their names. Raises BncheckError where a runtime could find another value."""
    found: dict[str, onnx.AttributeProto] = {}
    for attribute in node.attribute:
        name = text(attribute.name)
        kind = _TYPES.get(name, attribute.type)
        if name in found or attribute.type not in (kind, attribute.UNDEFINED):
            raise BncheckError(
                f"gives {quoted(name)} of a {text(node.op_type)} twice, or as another kind of "
                "value than the operator takes",
                EXPORT_AGAIN,
            )
        found[name] = attribute
    return found


def _trains(node: onnx.NodeProto, flags: dict[str, int], opset: int) -> bool:
    if opset >= 14:
        return flags.get("training_mode", 0) != 0
    if opset < 7:
        return flags.get("is_test", 0) == 0
    # Between them a node with more than one output was in training mode.
    return len([name for name in node.output if name]) > 1


def parameters_in(graphs: Iterable[onnx.GraphProto]) -> set[str]:
    """The parameters of all normalisations, and what these are computed from, by their names."""
    sources: dict[str, list[str]] = {}
    names: list[str] = []
    for node in (node for graph in graphs for node in graph.node):
        for name in filter(None, node.output):
            sources.setdefault(name, []).extend(node.input)
        if is_norm_class(text(node.op_type)):
            names += node.input[1:]
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            names += sources.get(name, ())
    return found


def layer_name(node: onnx.NodeProto, known: Mapping[str, Constant]) -> str:
    """The layer whose parameters the node has: `bn1` of `bn1.running_mean`; else the node's name.

    Parameters may be computed from those of that name.
    """
    inputs = [text(node.input[slot]) for slot in (3, 1) if len(node.input) > slot]
    for name in inputs:
        origins = known[name].origins if name in known else ()
        for candidate in (name, *(origin.name for origin in origins)):
            if found := owner(candidate):
                return found
    return next(text(name) for name in (node.name, *node.output, node.op_type) if name)


def round_to_decimal(value: float) -> float:
    """A float32 attribute as the decimal its author typed: 9.999999747378752e-06 -> 1e-05."""
    return float(f"{value:.6g}")
