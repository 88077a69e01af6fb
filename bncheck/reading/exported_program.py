"""`.pt2` archives of torch.export: JSON and raw bytes, read as such.

`torch.export.load` unpickles sample inputs and weights marked `use_pickle`; nothing of that is
needed to read the weights. Schema: torch/_export/serde/schema.py, export/pt2_archive/constants.py.
Archives of torch 2.1 to 2.6 hold the state dict as a torch file within the archive instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from bncheck.core.errors import BncheckError, quoted
from bncheck.reading.checkpoint import NormModule, Subtree
from bncheck.reading.exported_calls import listed_calls, results_of
from bncheck.reading.exported_uses import Place, operator_of, refuse_misused
from bncheck.reading.exported_weights import (
    NEEDS_EXPORT,
    read_constants,
    read_json,
    read_torch_file,
    read_weights,
)
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.tensors import LazyTensor
from bncheck.reading.zip_archive import ZipArchive

_FORMAT: Final = "archive_format"
_VERSION: Final = "archive_version"
#: What torch.export.load returns of several programs.
_MAIN: Final = "model"

_OLD_PROGRAM: Final = "serialized_exported_program.json"
_OLD_WEIGHTS: Final = "serialized_state_dict.pt"
_OLD_CONSTANTS: Final = "serialized_constants.pt"
_OLD_RECORDS: Final = ("serialized_", "extra_files/", "version")
#: Of torch 2.1; torch takes whichever stands last in the archive.
_OLDEST: Final = ("serialized_state_dict.json", "serialized_constants.json")

#: Calls without a flag for it: whether they normalise by the statistics of the batch.
_TRAINS: Final = {
    "_native_batch_norm_legit_no_training": False,
    "_batch_norm_no_update": False,
    "_batch_norm_with_update": True,
    "_batch_norm_with_update_functional": True,
}
#: How JSON has what are not finite numbers.
_ENDLESS: Final = frozenset(("NaN", "Infinity", "-Infinity"))


def read_exported_program(archive: ZipArchive) -> list[Subtree]:
    """The weights, and what the graph says about the normalisation layers that use them."""
    if "data.pkl" in archive:
        raise BncheckError(
            "is both a .pt2 archive and a file of torch.save: torch.load reads the latter",
            "do not trust it; save each of them separately",
        )
    try:
        if _OLD_PROGRAM in archive:
            return [_read_old(archive)]
        _check_format(archive)
        return [_read_model(archive, name) for name in _models(archive)]
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError,
            RecursionError) as error:  # fmt: skip
        raise BncheckError(
            f"is a .pt2 archive whose JSON is malformed ({type(error).__name__})", NEEDS_EXPORT
        ) from None


def _check_format(archive: ZipArchive) -> None:
    """Refuse what torch would not read as this format, and maybe as another."""
    marks = [archive.text(name) if name in archive else b"" for name in (_FORMAT, _VERSION)]
    said = [mark.decode("utf-8", "replace") for mark in marks]
    if said != ["pt2", "0"] or not archive.folder:
        raise BncheckError(
            f"is a .pt2 archive of the format {quoted(said[0])}, version {quoted(said[1])}, which "
            "bncheck does not know",
            NEEDS_EXPORT,
        )


def _models(archive: ZipArchive) -> list[str]:
    """The names of its programs; the one that torch.export.load returns comes first."""
    names = [
        name.removeprefix("models/").removesuffix(".json")
        for name in archive.names
        if name.startswith("models/") and name.endswith(".json")
    ]
    if not names:
        raise BncheckError(
            "is a .pt2 archive without a program (compiled by AOTInductor?)",
            "give bncheck the program that torch.export.save wrote",
        )
    return sorted(names, key=lambda name: name != _MAIN)


def _read_model(archive: ZipArchive, name: str) -> Subtree:
    program = read_json(archive, f"models/{name}.json")
    tensors, constants = read_weights(archive, name), read_constants(archive, name)
    tree = _subtree(program, tensors, constants)
    return tree if name == _MAIN else replace(tree, path=name, main=False)


def _read_old(archive: ZipArchive) -> Subtree:
    strangers = [n for n in archive.names if not n.startswith(_OLD_RECORDS) or n in _OLDEST]
    if strangers:
        raise BncheckError(
            f"holds an old exported program and {quoted(strangers[0])}: torch would take either",
            f"do not trust it; {NEEDS_EXPORT}",
        )
    constants = read_torch_file(archive, _OLD_CONSTANTS) if _OLD_CONSTANTS in archive else {}
    program, weights = read_json(archive, _OLD_PROGRAM), read_torch_file(archive, _OLD_WEIGHTS)
    return _subtree(program, weights, constants)


def _subtree(
    program: dict[str, Any],
    tensors: dict[str, LazyTensor],
    constants: Mapping[str, LazyTensor],
) -> Subtree:
    """The state dict, and those constants that a normalisation layer takes as its own."""
    everything = {**constants, **tensors}
    weights = dict(_inputs(program["graph_module"]["signature"]["input_specs"]))
    places = list(_nodes(program["graph_module"]["graph"], weights, itertools.count()))
    modules = _norm_modules(places, everything)
    refuse_misused(program, places, modules)
    taken = {name for module in modules.values() for name in module.tensors.values()}
    twice = taken & constants.keys() & tensors.keys()
    if twice:
        raise BncheckError(
            f"holds {quoted(min(twice))} as a weight and as a constant", NEEDS_EXPORT
        )
    tensors.update((name, constants[name]) for name in constants if name in taken)
    calls = partial(listed_calls, program, weights)
    return Subtree("", tensors, modules, main=True, listing=calls)


def _norm_modules(places: list[Place], tensors: Mapping[str, LazyTensor]) -> dict[str, NormModule]:
    """The normalisation calls of the graph by the name of the module that made them."""
    found: dict[str, NormModule] = {}
    for node, known, _ in places:
        operator = operator_of(node)
        if is_norm_class(operator):
            arguments = {item["name"]: item["arg"] for item in node["inputs"]}
            layer = _norm_module(operator, arguments, known, tensors)
            name = _layer_name(layer, node)
            if found.setdefault(name, layer) != layer:  # another's mean, another eps, in training
                other = f"{name} ({node.get('name')})"
                found[f"{other} {len(found)}" if other in found else other] = layer
    return found


def _nodes(
    graph: dict[str, Any], weights: Mapping[str, str], numbers: Iterator[int]
) -> Iterator[Place]:
    """The calls of a graph and of those inside it (cond, no_grad...), with the weights they see.

    What stands behind the inner graphs among an operator's inputs are their inputs, in order.
    """
    number = next(numbers)
    for node in graph["nodes"]:
        yield node, weights, number
        if any(name in weights for item in node["outputs"] for name in results_of(item)):
            raise ValueError  # a weight's name for something else, which loaders may take for it
        arguments = [item["arg"] for item in node["inputs"]]
        places = [at for at, argument in enumerate(arguments) if "as_graph" in argument]
        if not places:
            continue
        given = [name for argument in arguments[places[-1] + 1 :] for name in _names(argument)]
        for at in places:
            inner = arguments[at]["as_graph"]["graph"]
            names = [name for argument in inner["inputs"] for name in _names(argument)]
            pairs = zip(names, given, strict=False)
            known = {own: weights[n] for own, n in pairs if own and n and n in weights}
            yield from _nodes(inner, known if len(names) == len(given) else {}, numbers)


def _names(argument: dict[str, Any]) -> list[str | None]:
    """The names of the tensors that an argument consists of, None for anything else."""
    if "as_tensors" in argument:
        return [str(tensor["name"]) for tensor in argument["as_tensors"]]
    return [str(argument["as_tensor"]["name"]) if "as_tensor" in argument else None]


def _inputs(specs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Graph inputs that are weights, with the names that these have in the module."""
    for spec in specs:
        for kind in ("parameter", "buffer", "tensor_constant"):
            if kind in spec:
                yield str(spec[kind]["arg"]["name"]), str(spec[kind][f"{kind}_name"])


def _norm_module(
    operator: str,
    arguments: dict[str, dict[str, Any]],
    weights: Mapping[str, str],
    tensors: Mapping[str, LazyTensor],
) -> NormModule:
    roles = {}
    for role in ("running_mean", "running_var", "weight", "bias"):
        name = weights.get(arguments.get(role, {}).get("as_tensor", {}).get("name", ""), "")
        if name in tensors:
            roles[role] = name
    counter = roles.get("running_mean", "").removesuffix("running_mean") + "num_batches_tracked"
    if counter in tensors:
        roles["num_batches_tracked"] = counter
    # Statistics that the graph computes are there, and missing here: BN104 says so.
    tracks = any("as_tensor" in arguments.get(role, {}) for role in ("running_mean", "running_var"))
    momentum = _number(arguments.get("momentum"))
    return NormModule(
        operator,
        roles,
        eps=_number(arguments.get("eps")),
        momentum=momentum,
        momentum_known=momentum is not None,
        # With no running statistics to use, the flag says only that.
        training=_trains(operator, arguments) if tracks else None,
        tracks_statistics=tracks,
    )


def _number(argument: dict[str, Any] | None) -> float | None:
    """A number as torch takes it, integers and "NaN" included; None where none is given."""
    if argument is None or "as_none" in argument:
        return None
    [(kind, value)] = argument.items()
    if kind not in ("as_float", "as_int") or (isinstance(value, str) and value not in _ENDLESS):
        raise ValueError
    return float(value)


def _trains(operator: str, arguments: dict[str, dict[str, Any]]) -> bool:
    """Whether a call normalises by the statistics of the batch."""
    if operator in _TRAINS:
        return _TRAINS[operator]
    flag = arguments["training" if "training" in arguments else "use_input_stats"]
    return bool(_number(flag) if "as_bool" not in flag else flag["as_bool"])


def _layer_name(layer: NormModule, node: dict[str, Any]) -> str:
    for role in ("running_mean", "weight"):
        if role in layer.tensors:
            return layer.tensors[role].removesuffix(role).removesuffix(".")
    # "L__self__0,0,torch.nn.modules.conv.Conv2d;..." : innermost module last
    stack = str(node.get("metadata", {}).get("nn_module_stack", "")).rpartition(";")[2].split(",")
    return stack[1] if len(stack) > 1 and stack[1] else str(node.get("name") or node["target"])
