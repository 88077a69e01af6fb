"""What an ONNX graph does with running statistics beside handing them to a norm.

A graph without BatchNormalization may normalise by hand, with tensors that are still called
`bn.running_mean` and `bn.running_var`. That is followed as in TorchScript, and refused where it is
not plain normalising by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.listing import BETWEEN, ListedCall, Ref
from bncheck.reading.onnx_names import text
from bncheck.reading.roles import STATISTICS, split_name
from bncheck.reading.statistic_uses import Statistics

if TYPE_CHECKING:
    from collections import ChainMap

    import onnx

    from bncheck.reading.checkpoint import NormModule
    from bncheck.reading.onnx_constants import Constant

#: ONNX' operators by the names that torch has for the same steps.
_STEPS: Final = {
    **{name: name.lower() for name in ("Add", "Sub", "Mul", "Div", "Sqrt", "Neg", "Pow")},
    **dict.fromkeys(("Reshape", "Unsqueeze", "Squeeze", "Expand", "Flatten"), "view"),
    **dict.fromkeys(("Identity", "Cast", "CastLike"), "view"),
    "Reciprocal": "reciprocal",
    "Shape": "size",
    "Size": "size",
    "IsNaN": "isnan",
    "IsInf": "isinf",
}
_EITHER_WAY: Final = ("Add", "Mul")


def refuse_misused(
    graphs: Sequence[tuple[onnx.GraphProto, ChainMap[str, Constant]]],
    modules: Mapping[str, NormModule],
    computed: set[str],
) -> None:
    """Raise BncheckError where statistics are not normalised by as they are stored.

    `computed` are the names of what norms are computed from. Where a norm is in training, it is
    found as that.
    """
    stored = {c.name for _, scope in graphs for c in scope.maps[0].values() if not c.origins}
    owners = {o for o, own in map(split_name, stored) if STATISTICS.get(own) == "running_var"}
    given = {n for m in modules.values() for n in (*m.tensors.values(), *m.sources)}
    normalised = {owner for owner, own in map(split_name, given) if own in STATISTICS} & owners
    places = [
        (node, scope)
        for graph, scope in graphs
        for node in graph.node
        if not is_norm_class(text(node.op_type)) and computed.isdisjoint(map(text, node.output))
    ]
    odd = owners > normalised or any(
        split_name(ref.name)[1] in STATISTICS
        for node, scope in places
        for ref in _inputs(node, scope)
    )
    if not odd or any(module.training for module in modules.values()):
        return
    numbers: dict[str, float] = {}
    following = Statistics(owners, numbers)
    following.uses.normalises |= normalised
    try:
        for node, scope in places:
            numbers.update(_numbers(node, scope))
            _follow(following, node, [*_inputs(node, scope)])
        following.by_hand = {o: k for o, k in following.by_hand.items() if o not in normalised}
        following.finish(whole=False)
    except BncheckError as error:
        raise BncheckError(error.sentence, "export it with BatchNormalization nodes") from None


def _follow(following: Statistics, node: onnx.NodeProto, refs: list[Ref]) -> None:
    kind = text(node.op_type)
    if kind in _EITHER_WAY and refs and refs[0].name in following.numbers:
        refs.reverse()  # eps + variance
    outputs = tuple(f"{BETWEEN}{text(name)}" for name in node.output)
    operator = _STEPS.get(kind, f"onnx.{kind}")
    if kind == "Div" and len(refs) == 2 and following.numbers.get(refs[0].name) == 1:
        operator, refs = "reciprocal", refs[1:]
    following.call(operator, ListedCall(operator, tuple(refs), outputs))


def _inputs(node: onnx.NodeProto, scope: Mapping[str, Constant]) -> Iterator[Ref]:
    """What a node reads: stored tensors by their names in the file."""
    for name in filter(None, map(text, node.input)):
        constant = scope.get(name)
        yield Ref(f"{BETWEEN}{name}" if constant is None or constant.origins else constant.name)


def _numbers(node: onnx.NodeProto, scope: Mapping[str, Constant]) -> Iterator[tuple[str, float]]:
    """The constants of one number that a node reads."""
    for name in filter(None, map(text, node.input)):
        constant = scope.get(name)
        if constant is not None and constant.elements == 1:
            number = np.asarray(constant.read()).reshape(-1)
            if number.dtype.kind in "fiu":
                yield constant.name, float(number[0])
