"""Calls in place become calls that return new memory, so that a value has one content."""

from __future__ import annotations

from typing import Final

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from bncheck.core.errors import BncheckError
from bncheck.folding.program.rebuilding import copied, rebuilt
from bncheck.graph.program.calls import Arguments, operator_name
from bncheck.graph.program.from_module import quiet

#: Operators that torch composes of others and that return new memory all the same. Of the rest
#: (einsum, type_as, atleast_2d, dropout in eval) there is no promise that they do not return a
#: view.
_FRESH = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "linear", "matmul", "batch_norm", "instance_norm", "layer_norm", "group_norm", "max_pool1d",
    "max_pool2d", "max_pool3d", "avg_pool1d", "cat", "concat", "relu6", "silu", "selu",
}  # fmt: skip
#: What changes nothing where `train` is false.
_DROPOUTS: Final = {"dropout_", "feature_dropout_", "alpha_dropout_", "feature_alpha_dropout_"}


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program without calls in place, which would make a value's readers see two contents."""
    if not any(_in_place(node) for node in program.graph.nodes):
        return program
    graph = copied(program.graph)
    for node in [node for node in graph.nodes if _is_idle(node)]:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    if all(_out_of_place(node) for node in list(graph.nodes) if _in_place(node)):
        return rebuilt(program, graph)
    # Without decomposing them, torch takes what calls like einsum return for new memory.
    untold = any(_is_composed(node) for node in program.graph.nodes)
    try:
        with quiet():
            decomposed: ExportedProgram = untied(program).run_decompositions(None if untold else {})
    except Exception as error:
        raise BncheckError(
            f"changes tensors in place in a way that torch cannot express otherwise "
            f"({type(error).__name__})",
            "write the calls in place (x.add_(y), x[i] = y) out of place",
        ) from None
    return decomposed


def untied(program: ExportedProgram) -> ExportedProgram:
    """The program with a tensor of its own for every name under which a shared one is not read.

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


def _is_idle(node: Node) -> bool:
    """Whether a call in place leaves its argument as it is: dropout in eval."""
    if not _in_place(node) or operator_name(node) not in _DROPOUTS:
        return False
    return Arguments(node)("train") is False and isinstance(node.args[0], Node)


def _in_place(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def changed_in_place(graph: torch.fx.Graph) -> set[Node]:
    """The nodes whose values a later call may change, as a call in place or through a view."""
    found: set[Node] = set()
    waiting = [source for node in graph.nodes for source in _changes(node)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes if _may_alias(node) else []
    return found


def _changes(node: Node) -> list[Node]:
    """What a call may write to. What a graph inside it does is not looked at."""
    target = node.target
    if isinstance(target, torch._ops.HigherOrderOperator):
        return node.all_input_nodes
    if not _in_place(node):
        return []
    arguments = target._schema.arguments  # type: ignore[union-attr]
    written = {a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write}
    given = Arguments(node).given
    sources: list[Node] = []
    torch.fx.map_arg([given[name] for name in written if name in given], sources.append)
    return sources


def _out_of_place(node: Node) -> bool:
    """Replace relu_ by relu where its input, or a view of it, is not read afterwards."""
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
