"""`.pt2` archives of torch.export: JSON and raw bytes, read as such.

`torch.export.load` unpickles sample inputs and weights marked `use_pickle`; nothing of that is
needed to read the weights. Schema: torch/_export/serde/schema.py, export/pt2_archive/constants.py.
Archives of torch 2.1 to 2.6 hold the state dict as a torch file within the archive instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.reading.checkpoint import NormModule, Subtree, as_number
from bncheck.reading.json_text import parse
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.tensors import LazyTensor, LoadedTensor, StridedTensor
from bncheck.reading.torch_files import read_zip
from bncheck.reading.tree import find_subtrees
from bncheck.reading.zip_archive import ZipArchive

_WEIGHTS: Final = "data/weights/"
_OLD_PROGRAM: Final = "serialized_exported_program.json"
_OLD_WEIGHTS: Final = "serialized_state_dict.pt"

# torch/_export/serde/schema.py: ScalarType
_DTYPES: Final = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
}
_NEEDS_EXPORT: Final = "export it again with torch.export.save"


def is_exported_program(archive: ZipArchive) -> bool:
    """Whether a zip archive is a `.pt2`."""
    return "archive_format" in archive or _OLD_PROGRAM in archive


def read_exported_program(archive: ZipArchive) -> list[Subtree]:
    """The weights, and what the graph says about the normalisation layers that use them."""
    try:
        if _OLD_PROGRAM in archive:
            return [_read_old(archive)]
        return [_read_model(archive, name) for name in _models(archive)]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BncheckError(
            f"is a .pt2 archive whose JSON is malformed ({type(error).__name__})", _NEEDS_EXPORT
        ) from None


def _models(archive: ZipArchive) -> list[str]:
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
    return names


def _read_model(archive: ZipArchive, name: str) -> Subtree:
    program = _json(archive, f"models/{name}.json")
    tensors: dict[str, LazyTensor] = {}
    for config in (f"{_WEIGHTS}{name}_weights_config.json", f"{name}_weights_config.json"):
        if config in archive:
            for tensor_name, entry in _json(archive, config)["config"].items():
                tensors[str(tensor_name)] = _tensor(archive, entry)
    return Subtree("" if name == "model" else name, tensors, _norm_modules(program, tensors))


def _read_old(archive: ZipArchive) -> Subtree:
    inner = ZipArchive(archive.source(_OLD_WEIGHTS))
    found = find_subtrees(read_zip(inner))
    tensors = dict(found[0].tensors) if found else {}
    return Subtree("", tensors, _norm_modules(_json(archive, _OLD_PROGRAM), tensors))


def _json(archive: ZipArchive, name: str) -> dict[str, Any]:
    value = parse(archive.text(name), archive.budget)
    if not isinstance(value, dict):
        raise TypeError
    return value


def _tensor(archive: ZipArchive, entry: dict[str, Any]) -> LazyTensor:
    if entry.get("use_pickle"):
        return LoadedTensor(_refuse_pickle)
    meta = entry["tensor_meta"]
    record = f"{_WEIGHTS}{entry['path_name']}"
    dtype = _DTYPES.get(meta["dtype"])
    if dtype is None:
        raise BncheckError(f"holds a tensor of the unknown dtype {meta['dtype']!r}", _NEEDS_EXPORT)
    return StridedTensor(
        archive.storage(record),
        dtype,
        tuple(_integer(size) for size in meta["sizes"]),
        tuple(_integer(stride) for stride in meta["strides"]),
        _integer(meta["storage_offset"]),
    )


def _refuse_pickle() -> Any:
    raise BncheckError(
        "keeps a weight as a pickle (use_pickle), which loading would have to execute",
        _NEEDS_EXPORT,
    )


def _integer(value: Any) -> int:
    number = value["as_int"]
    if not isinstance(number, int):
        raise TypeError
    return number


def _norm_modules(program: dict[str, Any], tensors: dict[str, LazyTensor]) -> dict[str, NormModule]:
    """The normalisation calls of the graph by the name of the module that made them."""
    module = program["graph_module"]
    weights = dict(_inputs(module["signature"]["input_specs"]))
    found: dict[str, NormModule] = {}
    for node in module["graph"]["nodes"]:
        operator = str(node["target"]).removeprefix("torch.ops.aten.").partition(".")[0]
        if is_norm_class(operator):
            arguments = {item["name"]: item["arg"] for item in node["inputs"]}
            layer = _norm_module(operator, arguments, weights, tensors)
            name = _layer_name(layer, node)
            if found.setdefault(name, layer).tensors != layer.tensors:  # another's mean, say
                found[f"{name} ({node.get('name')})"] = layer
    return found


def _inputs(specs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Graph inputs that are weights, with the names that these have in the module."""
    for spec in specs:
        for kind, name in (("parameter", "parameter_name"), ("buffer", "buffer_name")):
            if kind in spec:
                yield str(spec[kind]["arg"]["name"]), str(spec[kind][name])


def _norm_module(
    operator: str,
    arguments: dict[str, dict[str, Any]],
    weights: dict[str, str],
    tensors: dict[str, LazyTensor],
) -> NormModule:
    roles = {}
    for role in ("running_mean", "running_var", "weight", "bias"):
        name = weights.get(arguments.get(role, {}).get("as_tensor", {}).get("name", ""), "")
        if name in tensors:
            roles[role] = name
    counter = roles.get("running_mean", "").removesuffix("running_mean") + "num_batches_tracked"
    if counter in tensors:
        roles["num_batches_tracked"] = counter
    tracks = "running_mean" in roles
    flag = arguments.get("training", arguments.get("use_input_stats", {})).get("as_bool")
    momentum = as_number(arguments.get("momentum", {}).get("as_float"))
    return NormModule(
        operator,
        roles,
        eps=as_number(arguments.get("eps", {}).get("as_float")),
        momentum=momentum,
        momentum_known=momentum is not None,
        # With no running statistics to use, the flag says only that.
        training=bool(flag) if tracks else None,
        tracks_statistics=tracks,
    )


def _layer_name(layer: NormModule, node: dict[str, Any]) -> str:
    for role in ("running_mean", "weight"):
        if role in layer.tensors:
            return layer.tensors[role].removesuffix(role).removesuffix(".")
    # "L__self__0,0,torch.nn.modules.conv.Conv2d;..." : innermost module last
    stack = str(node.get("metadata", {}).get("nn_module_stack", "")).rpartition(";")[2].split(",")
    return stack[1] if len(stack) > 1 and stack[1] else str(node.get("name") or node["target"])
