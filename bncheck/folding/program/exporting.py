"""A module becomes a torch.export program with a free batch size and without calls in place."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils import _pytree as pytree

from bncheck.core.errors import BncheckError
from bncheck.subject.inputs import takes

_SITE = str(Path(torch.__file__).parent)
_USER_LINE = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\S+))?\n\s*(.+)')
#: Operators that torch composes of others and that return new memory all the same. Of the rest
#: (einsum, type_as, atleast_2d, dropout in eval) nobody promises that they do not return a view.
_FRESH = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "linear", "matmul", "batch_norm", "instance_norm", "layer_norm", "group_norm", "max_pool1d",
    "max_pool2d", "max_pool3d", "avg_pool1d", "cat", "concat", "relu6", "silu", "selu",
}  # fmt: skip


def as_arguments(example_inputs: object) -> tuple[Any, ...]:
    """What a model is called with: a tuple or a list of inputs, or the only one."""
    if example_inputs is None:
        return ()
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


def export_program(model: nn.Module, example_inputs: tuple[Any, ...]) -> ExportedProgram:
    """Export a module; raises BncheckError with the user's line where that is impossible.

    The first axis of every input is left free where the model allows it. An example of one sample
    would fix it, so it is doubled for the export.
    """
    _check_call(model, example_inputs)
    failure: Exception | None = None
    doubled = _doubled(example_inputs)
    for inputs in [example_inputs] if doubled is None else [doubled, example_inputs]:
        try:
            program = _export(model, inputs, _free_batch(inputs))
        except Exception as error:
            failure = error
            continue
        if inputs is example_inputs or has_free_batch(program):
            return program
    try:  # inputs whose first axis is no batch
        return _export(model, example_inputs, None)
    except Exception as error:
        raise _unexportable(failure or error) from None


def _check_call(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raise for inputs that the model's forward cannot be called with, and for empty ones."""
    tensors = [item for item in pytree.tree_leaves(inputs) if isinstance(item, torch.Tensor)]
    if any(tensor.dim() and not len(tensor) for tensor in tensors):
        raise BncheckError("the example inputs hold no sample", "give at least one sample")
    try:
        signature = inspect.signature(model.forward)
    except ValueError:  # TorchScript shows none
        return
    try:
        signature.bind(*inputs)
    except TypeError as error:
        raise BncheckError(
            f"the example inputs do not fit the model's forward ({error})", takes(signature)
        ) from None


def _export(model: nn.Module, inputs: tuple[Any, ...], shapes: Any) -> ExportedProgram:
    with _quiet(), torch.no_grad():
        return torch.export.export(model, inputs, dynamic_shapes=shapes)


def _free_batch(inputs: tuple[Any, ...]) -> ShapesCollection:
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for item in pytree.tree_leaves(inputs):
        if isinstance(item, torch.Tensor) and item.dim():
            shapes[item] = {0: Dim.AUTO}
    return shapes


def _doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Two samples of the same, where there is one."""
    tensors = [t for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.dim()]
    if not tensors or any(t.shape[0] != 1 for t in tensors):
        return None
    twice: tuple[Any, ...] = pytree.tree_map(
        lambda t: torch.cat([t, t]) if isinstance(t, torch.Tensor) and t.dim() else t, inputs
    )
    return twice


def user_inputs(program: ExportedProgram) -> list[Node]:
    """The graph inputs that the caller gives."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [
        nodes[spec.arg.name]
        for spec in program.graph_signature.input_specs
        if spec.kind == InputKind.USER_INPUT
    ]


def has_free_batch(program: ExportedProgram) -> bool:
    """Whether some input may have any number of samples."""
    values = [node.meta.get("val") for node in user_inputs(program)]
    return any(
        isinstance(v, torch.Tensor) and v.dim() and isinstance(v.shape[0], torch.SymInt)
        for v in values
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's own remarks about shapes and unused options do not belong into our streams."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch._export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def export_shaped(
    model: nn.Module, example_inputs: tuple[Any, ...], shapes: tuple[dict[int, Any], ...]
) -> ExportedProgram:
    """Export a module with these free axes, by input, and no others. Raises BncheckError."""
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(model, example_inputs, dynamic_shapes=shapes)
    except Exception as error:
        raise _unexportable(error) from None


def _unexportable(error: Exception) -> BncheckError:
    """The line of the user's code that stops the export, and what to do about it."""
    where = _user_line(error)
    name = type(error).__name__
    if "DataDependent" in name or "data-dependent" in str(error):
        return BncheckError(
            f"branches on the values of a tensor{where}, so it is not one graph",
            "write it with torch.where or torch.cond, or fold the parts around it",
        )
    first = next((line for line in str(error).splitlines() if line.strip()), name).strip()
    return BncheckError(
        f"cannot be exported{where} ({name}: {first[:160]})",
        "check --input against the model's forward, and that torch.export accepts the model",
    )


def _user_line(error: Exception) -> str:
    frames = [
        (f.filename, f.lineno, f.line)
        for f in traceback.extract_tb(error.__traceback__)
        if f.line and not _is_ours(f.filename)
    ]
    found = frames[-1] if frames else None
    for path, line, _, code in _USER_LINE.findall(str(error)):
        if not _is_ours(path):
            found = (path, int(line), code)
    if found is None:
        return ""
    path, number, code = found
    return f" at {Path(path).name}:{number} `{(code or '').strip()[:80]}`"


def _is_ours(path: str) -> bool:
    here = str(Path(__file__).parent.parent)
    return path.startswith((_SITE, here, "<")) or "site-packages" in path


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program without calls in place, which would make a value's readers see two contents."""
    if not any(_in_place(node) for node in program.graph.nodes):
        return program
    graph = copied(program.graph)
    if all(_out_of_place(node) for node in list(graph.nodes) if _in_place(node)):
        return rebuilt(program, graph)
    # Without decomposing them, torch takes what calls like einsum return for new memory.
    untold = any(_is_composed(node) for node in program.graph.nodes)
    try:
        with _quiet():
            decomposed: ExportedProgram = untied(program).run_decompositions(None if untold else {})
    except Exception as error:
        raise BncheckError(
            f"changes tensors in place in a way that torch cannot express otherwise "
            f"({type(error).__name__})",
            "write the calls in place (x.add_(y), x[i] = y) out of place",
        ) from None
    return decomposed


def untied(program: ExportedProgram) -> ExportedProgram:
    """The program with a tensor of its own for every name under which nobody reads a shared one.

    Two names of one buffer that is changed in place are more than torch's decomposition takes.
    """
    holders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    read = {
        spec.target
        for spec in program.graph_signature.input_specs
        if spec.target is not None and holders[spec.arg.name].users
    }
    state = dict(program.state_dict)
    shared = {id(tensor) for name, tensor in state.items() if name in read}
    for name, tensor in state.items():
        if name not in read and id(tensor) in shared and type(tensor) is torch.Tensor:
            state[name] = tensor.clone()
    return rebuilt(program, copied(program.graph), state)


def copied(graph: torch.fx.Graph) -> torch.fx.Graph:
    """A copy whose nodes keep their names; copying renames `input`, which is a builtin."""
    new = copy.deepcopy(graph)
    for old, node in zip(graph.nodes, new.nodes, strict=True):
        node.name = old.name
    return new


def _in_place(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _out_of_place(node: Node) -> bool:
    """Replace relu_ by relu where nobody reads its input, or a view of it, afterwards."""
    assert isinstance(node.target, torch._ops.OpOverload)
    space, name = node.target._schema.name.split("::")
    source = node.args[0] if node.args else None
    packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None)
    overload = getattr(packet, node.target._overloadname, None)
    if overload is None or not name.endswith("_") or not isinstance(source, Node):
        return False
    if source.op != "call_function" or _may_alias(source) or not _only_reader_left(node, source):
        return False
    if not _same_dtypes(node):  # in place, the result has the dtype of what it is written to
        return False
    node.target = overload
    return True


def _may_alias(node: Node) -> bool:
    """Whether a call may return memory that it was given."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    if any(result.alias_info is not None for result in target._schema.returns):
        return True
    return _is_composed(node)


def _is_composed(node: Node) -> bool:
    """Whether torch composes it of calls that may return a view, which its schema does not tell."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if any(result.alias_info is not None for result in target._schema.returns):
        return False
    name = target._schema.name.partition("::")[2]
    return target.has_kernel_for_dispatch_key(_COMPOSED) and name not in _FRESH


_COMPOSED = torch._C.DispatchKey.CompositeImplicitAutograd


def _only_reader_left(node: Node, source: Node) -> bool:
    """Whether all other readers of `source` come before `node`, and none keeps a view of it."""
    others = [user for user in source.users if user is not node]
    return not any(node < user or _may_alias(user) for user in others) and (
        node.args.count(source) == 1
    )


def _same_dtypes(node: Node) -> bool:
    values = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    return len({v.dtype for v in values if isinstance(v, torch.Tensor)}) == 1


def rebuilt(
    program: ExportedProgram,
    graph: torch.fx.Graph,
    state: dict[str, Any] | None = None,
    constants: dict[str, Any] | None = None,
    specs: list[Any] | None = None,
) -> ExportedProgram:
    """The program with another graph; what is not given stays."""
    from torch.export.graph_signature import ExportGraphSignature

    signature = program.graph_signature
    module = torch.fx.GraphModule(program.graph_module, graph)
    module.meta.update(program.graph_module.meta)
    return ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=ExportGraphSignature(
            input_specs=list(signature.input_specs) if specs is None else specs,
            output_specs=_output_specs(signature.output_specs, graph),
        ),
        state_dict=dict(program.state_dict) if state is None else state,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=None,
        constants=dict(program.constants) if constants is None else constants,
        verifiers=program.verifiers,
    )


def _output_specs(specs: list[Any], graph: torch.fx.Graph) -> list[Any]:
    """The signature's outputs under the names of the nodes that now make them."""
    results = graph.output_node().args[0]
    assert isinstance(results, (tuple, list))
    new = []
    for spec, node in zip(specs, results, strict=True):
        named = isinstance(node, Node) and hasattr(spec.arg, "name")
        arg = dataclasses.replace(spec.arg, name=node.name) if named else spec.arg
        new.append(dataclasses.replace(spec, arg=arg))
    return new


def refuse_random(program: ExportedProgram) -> None:
    """A program that draws random numbers cannot be compared with anything."""
    for node in program.graph.nodes:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in target.tags and _draws(node):
            raise BncheckError(
                f"draws random numbers ({target._schema.name.partition('::')[2]})",
                "call model.eval() before folding",
            )


def _draws(node: Node) -> bool:
    """Whether a call with that tag draws: dropout in eval mode and attention without it do not."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    given |= {a.name: v for a, v in zip(schema, node.args, strict=False)} | node.kwargs
    switches = [given[name] for name in ("train", "training") if name in given]
    shares = [given[name] for name in ("p", "dropout_p", "dropout") if name in given]
    return all(switches) and not (shares and all(share == 0 for share in shares))
