"""What changes an exported program: copies of its graph, new calls, a program around both."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node


def copied(graph: torch.fx.Graph) -> torch.fx.Graph:
    """A copy whose nodes keep their names; copying renames `input`, which is a builtin."""
    new = copy.deepcopy(graph)
    for old, node in zip(graph.nodes, new.nodes, strict=True):
        node.name = old.name
    return new


def call_before(node: Node, target: Any, args: tuple[Any, ...], **kwargs: Any) -> Node:
    """A new call before a node, as of the same module."""
    with node.graph.inserting_before(node):
        new = node.graph.call_function(target, args, kwargs)
    new.meta = {k: v for k, v in node.meta.items() if k != "val"}
    fakes = torch.fx.map_arg(args, lambda arg: arg.meta["val"])
    mode = node.meta["val"].fake_mode
    shapes = mode.shape_env
    # Which kernel would run, torch asks by the batch size, and would forbid the other sizes.
    with mode, shapes.suppress_guards() if shapes else contextlib.nullcontext():
        new.meta["val"] = target(*fakes, **kwargs)
    return new


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


def with_own_tensors(program: ExportedProgram) -> ExportedProgram:
    """The same program, none of whose tensors changes when the model is trained further."""
    copies: dict[int, torch.Tensor] = {}

    def owned(stored: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: copies.setdefault(id(value), copied_tensor(value))
            if isinstance(value, torch.Tensor)
            else value
            for name, value in stored.items()
        }

    state, constants = owned(program.state_dict), owned(program.constants)
    return rebuilt(program, copied(program.graph), state, constants)


def copied_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of its own."""
    new = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(new, requires_grad=False)
    return new


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
