"""What a `.pt2` program does with running statistics beside handing them to a norm.

A program may hold sound statistics and write into them, or into a view of them, before a norm takes
them; or it normalises by hand. That is followed as in TorchScript, call by call, and refused where
it is not plain normalising.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.reading.checkpoint import NormModule
from bncheck.reading.exported_calls import Names, call_of
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.listing import BETWEEN, ListedCall
from bncheck.reading.roles import STATISTICS, split_name
from bncheck.reading.statistic_uses import Statistics, refs_of, refusal, written

#: A node, the weights by their names in its graph, and a number of that graph.
Place = tuple[dict[str, Any], Mapping[str, str], int]

#: Casts, as a program has them, and a check of dtypes before them.
_CASTS: Final = {
    "_to_copy": "to",
    "torch.ops.prims.convert_element_type.default": "to",
    "_assert_tensor_metadata": "dtype",
}
#: How the first two operands are called, in whatever order they stand.
_OPERANDS: Final = ("self", "input", "other")


def operator_of(node: Mapping[str, Any]) -> str:
    """What a node calls: `add` of `torch.ops.aten.add.Tensor`, others by their whole names."""
    target = str(node["target"])
    own = target.removeprefix("torch.ops.aten.")
    return target if own == target else own.partition(".")[0]


def refuse_misused(
    program: Mapping[str, Any],
    places: list[Place],
    modules: Mapping[str, NormModule],
) -> None:
    """Raise BncheckError where statistics are not, or not as they are stored, normalised by.

    Where a norm is in training, statistics are written, and it is found as that.
    """
    if any(module.training for module in modules.values()):
        return
    try:
        _follow_all(program, places, modules)
    except BncheckError as error:
        raise BncheckError(error.sentence, "save its state dict, and inspect that") from None


def _follow_all(
    program: Mapping[str, Any],
    places: list[Place],
    modules: Mapping[str, NormModule],
) -> None:
    normalised = {
        split_name(module.tensors["running_var"])[0]
        for module in modules.values()
        if {"running_mean", "running_var"} <= module.tensors.keys()
    }
    owners = {owner for _, known, _ in places[:1] for owner in _owners(known)}
    if any(_is_statistic(name) for name in _written_back(program)):
        raise written()
    if owners <= normalised and not any(map(_is_odd, places)):
        return
    following = Statistics(owners)
    following.uses.normalises |= normalised & owners
    for node, known, number in places:
        operator = operator_of(node)
        if not is_norm_class(operator):
            call = call_of(node, Names(known, f"{BETWEEN}{number}."))
            _follow(following, node, call)
    following.by_hand = {o: k for o, k in following.by_hand.items() if o not in normalised}
    following.finish(whole=False)


def _follow(following: Statistics, node: Mapping[str, Any], call: ListedCall) -> None:
    operator = operator_of(node)
    if _has_graphs(node):  # what is stored has its own name in them, and is followed there
        refs = refs_of((*call.args, *call.named.values()))
        lost = next((r for r in refs if r.name.startswith(BETWEEN) and following.concerns(r)), None)
        if lost is not None:
            raise refusal("")
        return
    first = [call.named[name] for name in _OPERANDS if name in call.named]
    rest = [value for name, value in call.named.items() if name not in _OPERANDS]
    ordered = ListedCall(operator, (*first, *rest), call.outputs, call.named)
    following.call(_CASTS.get(operator, operator), ordered)


def _is_odd(place: Place) -> bool:
    """Whether something else than a norm is given a statistic as it is stored."""
    node, known, _ = place
    if is_norm_class(operator_of(node)) or _has_graphs(node):
        return False
    call = call_of(node, Names(known, BETWEEN))
    return any(_is_statistic(ref.name) for ref in refs_of(call.args))


def _has_graphs(node: Mapping[str, Any]) -> bool:
    return any("as_graph" in item["arg"] for item in node["inputs"])


def _is_statistic(name: str) -> bool:
    return not name.startswith(BETWEEN) and split_name(name)[1] in STATISTICS


def _owners(known: Mapping[str, str]) -> Iterator[str]:
    for name in known.values():
        owner, own = split_name(name)
        if STATISTICS.get(own) == "running_var":
            yield owner


def _written_back(program: Mapping[str, Any]) -> Iterator[str]:
    """The buffers that a program without calls in place gives new values to when it is run."""
    for spec in program["graph_module"]["signature"]["output_specs"]:
        if "buffer_mutation" in spec:
            yield str(spec["buffer_mutation"]["buffer_name"])
