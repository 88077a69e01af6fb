"""A model at an older opset: each call that has changed since is written as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import onnx
from onnx import helper

from bncheck.core.errors import BncheckError
from bncheck.reading.onnx_file import graphs_of
from bncheck.reading.onnx_functions import without_functions
from bncheck.reading.onnx_names import STANDARD
from bncheck.shipping.opsets import expansions, settings
from bncheck.shipping.opsets.scope import Call, Scope, TooOldError

#: The oldest opset that is written.
OLDEST: Final = 11

_Adapter = Callable[[Call, Scope], list[Call]]
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
#: By operator: below which opset it is written otherwise, and how.
_TABLE: dict[str, tuple[int, _Adapter]] = {
    **dict.fromkeys(_REDUCTIONS, (18, settings.reduction)),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), (13, settings.squeeze)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), (13, settings.softmax)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), (13, settings.scaled)),
    **dict.fromkeys(("Max", "Min", "Pow"), (12, settings.through_double)),
    **dict.fromkeys(("GreaterOrEqual", "LessOrEqual"), (12, expansions.or_equal)),
    "CastLike": (15, settings.like),
    "Celu": (12, expansions.celu),
    "Clip": (12, settings.clip),
    "Constant": (12, settings.constant),
    "HardSwish": (14, expansions.hard_swish),
    "LayerNormalization": (17, expansions.layer_normalization),
    "Mish": (18, expansions.mish),
    "Pad": (18, settings.pad),
    "Reshape": (14, settings.reshape),
    "Resize": (18, settings.resize),
    "Shape": (15, settings.shape),
    "Split": (18, settings.split),
    "Trilu": (14, expansions.trilu),
}


def lowered(model: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    """The same function at an opset from 11 on. Raises BncheckError that names the operator."""
    new = onnx.ModelProto()
    new.CopyFrom(without_functions(model))
    scope = Scope(new, wanted)
    try:
        for graph in list(graphs_of(new.graph)):
            nodes = [plain for node in graph.node for plain in _older(node, scope)]
            del graph.node[:]
            graph.node.extend(nodes)
    except TooOldError as reason:
        raise BncheckError(
            f"--opset {wanted} is too old for this model: it has no {reason}",
            "give a newer one; torch itself writes 18 and more",
        ) from None
    new.graph.initializer.extend(scope.new)
    imports = [o for o in new.opset_import if o.domain not in STANDARD]
    del new.opset_import[:]
    new.opset_import.extend([helper.make_opsetid("", wanted), *imports])
    new.ir_version = helper.find_min_ir_version_for(new.opset_import)
    return new


def _older(node: onnx.NodeProto, scope: Scope) -> Iterator[onnx.NodeProto]:
    if node.domain not in STANDARD or any(a.HasField("g") or a.graphs for a in node.attribute):
        yield node
        return
    call = Call.of(node)
    settings.without_defaults(call, scope)
    below, adapter = _TABLE.get(node.op_type, (0, None))
    calls = adapter(call, scope) if adapter and scope.wanted < below else [call]
    for made in calls:
        _check(made, scope.wanted)
        yield made.node()


def _check(call: Call, wanted: int) -> None:
    """Raise for an operator, or an attribute or input of it, that the opset does not know."""
    try:
        schema = onnx.defs.get_schema(call.kind, wanted, "")
    except onnx.defs.SchemaError:
        raise TooOldError(call.kind) from None
    strange = sorted(call.settings.keys() - schema.attributes.keys())
    if strange:
        raise TooOldError(f"{call.kind} with {strange[0]}")
    if len(call.inputs) > schema.max_input:
        raise TooOldError(f"{call.kind} of {len(call.inputs)} inputs")
