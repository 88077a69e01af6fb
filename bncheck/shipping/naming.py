"""Names of an ONNX file's inputs, outputs and free axes, from those of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import onnx

from bncheck.core.errors import BncheckError
from bncheck.reading.onnx_file import graphs_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def input_names(program: ExportedProgram, given: Sequence[str] = ()) -> list[str]:
    """What forward calls them, or as given."""
    import torch

    from bncheck.folding.program.exporting import user_inputs

    nodes = user_inputs(program)
    own = [node.name for node in nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    return _given(given, own, "--input-name", "inputs") if given else own


def output_names(
    program: ExportedProgram, taken: Sequence[str], given: Sequence[str] = ()
) -> list[str]:
    """The keys of a dict, the fields of a dataclass, `output` or `output_0`; or as given."""
    from torch.export.graph_signature import OutputKind
    from torch.utils import _pytree as pytree

    spec = program.call_spec.out_spec
    assert spec is not None
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    outputs = [o for o in program.graph_signature.output_specs if o.kind == OutputKind.USER_OUTPUT]
    own: list[str] = []
    for path, output in zip(paths, outputs, strict=True):
        if hasattr(output.arg, "name"):
            own.append(_free_name(_path_name(path), [*taken, *own]))
    if both := sorted({*given} & {*taken}):
        raise BncheckError(f"--output-name {both[0]} is the name of an input", "give another")
    return _given(given, own, "--output-name", "outputs") if given else own


def _path_name(path: Sequence[Any]) -> str:
    """`logits`, `output_0`, `boxes_1`."""
    parts = [
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path
    ]
    named = "_".join(part for part in parts if part)
    return f"output_{named}".rstrip("_") if not named or named[0].isdigit() else named


def _free_name(wish: str, taken: Sequence[str]) -> str:
    name = wish
    while name in taken:
        name += "_out"
    return name


def _given(given: Sequence[str], own: Sequence[str], option: str, what: str) -> list[str]:
    if len(given) != len(own):
        raise BncheckError(
            f"{option} gives {len(given)} names for {len(own)} {what} ({', '.join(own)})",
            "give one for each, in order",
        )
    if len(set(given)) < len(given):
        raise BncheckError(f"{option} gives a name twice", "give different ones")
    return list(given)


def name_axes(model: onnx.ModelProto) -> None:
    """Call a free first axis `batch`, the others `<input>_<axis>`, wherever a shape mentions them.

    torch's own symbols (s77) differ from export to export.
    """
    names: dict[str, str] = {}
    for info in model.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.dim_param and dim.dim_param.isidentifier() and dim.dim_param not in names:
                wish = "batch" if axis == 0 else f"{info.name}_{axis}"
                names[dim.dim_param] = wish if wish not in names.values() else f"{info.name}_{axis}"
    if not names:
        return
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, names)) + r")\b")
    for dim in _dims(model):
        if dim.dim_param:
            dim.dim_param = pattern.sub(lambda match: names[match[0]], dim.dim_param)


def _dims(model: onnx.ModelProto) -> Iterator[Any]:
    for graph in graphs_of(model.graph):
        for info in (*graph.input, *graph.output, *graph.value_info):
            yield from info.type.tensor_type.shape.dim
