"""The graph inputs of a program that hold numbers: parameters, buffers and constants.

Where a call was the only one to read a parameter, the new numbers take its name. Where others read
it, too, the call gets a parameter of its own, named after the module that made the call. Calls of
one module that get the same numbers share one, as they did before.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Graph, Node

from bncheck.folding.algebra import Cast
from bncheck.folding.program.rebuilding import copied_tensor

_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class Parameters:
    """Those of a program, changed along with a copy of its graph; its own stay as they are."""

    def __init__(self, program: ExportedProgram, graph: Graph) -> None:
        self._program = program
        self._graph = graph
        self._specs = {
            spec.arg.name: spec
            for spec in program.graph_signature.input_specs
            if hasattr(spec.arg, "name")
        }
        self._state: dict[str, Any] = dict(program.state_dict)
        self._constants: dict[str, Any] = dict(program.constants)
        self._made: dict[tuple[str, str], list[Node]] = {}
        self._names_of = Counter(map(id, program.state_dict.values()))
        # Behind those of the program, before all else.
        self._place = next(node for node in graph.nodes if not self._holds_numbers(node))
        self._idle = {node.name for node in graph.nodes if not node.users}
        self._mode = next(
            node.meta["val"].fake_mode
            for node in graph.nodes
            if isinstance(node.meta.get("val"), torch._subclasses.FakeTensor)
        )

    def replaced(self, holder: Node | None, reader: Node, number: Cast, wish: str) -> Node:
        """The graph input that holds new numbers: the old one where only this call reads it."""
        tensor = as_tensor(number)
        made = self._made.setdefault((holder.name if holder is not None else "", wish), [])
        for node in made:
            if self._holds(node, tensor):
                return node
        if holder is not None and self._can_take(holder, reader, tensor):
            target = str(self._specs[holder.name].target)
            self._state[target] = torch.nn.Parameter(tensor, requires_grad=False)
            return holder
        made.append(self.new(wish, number))
        return made[-1]

    def _holds(self, node: Node, tensor: torch.Tensor) -> bool:
        stored = self._state[str(self._specs[node.name].target)]
        return stored.dtype == tensor.dtype and torch.equal(stored, tensor)

    def _can_take(self, holder: Node, reader: Node, tensor: torch.Tensor) -> bool:
        spec = self._specs.get(holder.name)
        if spec is None or spec.kind != InputKind.PARAMETER:
            return False
        stored = self._state.get(str(spec.target))
        alone = set(holder.users) == {reader} and reader.all_input_nodes.count(holder) == 1
        if not alone or not isinstance(stored, torch.Tensor) or self._is_tied(str(spec.target)):
            return False
        return stored.shape == tensor.shape and stored.dtype == tensor.dtype

    def _is_tied(self, target: str) -> bool:
        """Whether another name holds the same tensor."""
        return self._names_of[id(self._program.state_dict.get(target))] > 1

    def new(self, wish: str, number: Cast) -> Node:
        """A new parameter, under that name or the next that is free."""
        target, count = wish, 1
        while target in self._state or target in self._constants:
            target, count = f"{wish}_{count}", count + 1
        tensor = as_tensor(number)
        self._state[target] = torch.nn.Parameter(tensor, requires_grad=False)
        with self._graph.inserting_before(self._place):
            node = self._graph.placeholder("p_" + re.sub(r"\W", "_", target))
        node.meta["val"] = self._mode.from_tensor(tensor, static_shapes=True)
        self._specs[node.name] = InputSpec(
            InputKind.PARAMETER, TensorArgument(node.name), target, None
        )
        return node

    def _holds_numbers(self, node: Node) -> bool:
        return node.name in self._specs and self._specs[node.name].kind in _KINDS

    def sweep(self) -> None:
        """Remove those that are no longer used, and the counters of the layers they were of."""
        kept_targets = set(self._program.graph_signature.buffers_to_mutate.values())
        dropped = []
        for node in list(self._graph.nodes):
            if node.users or node.name in self._idle or not self._holds_numbers(node):
                continue
            target = str(self._specs[node.name].target)
            if node.op == "placeholder" and target not in kept_targets:
                dropped.append(target)
                self._drop(node)
        for (_, wish), nodes in self._made.items():
            if nodes:
                self._rename(nodes[0], wish)
        owners = {name.rpartition(".")[0] for name in set(dropped) - self._state.keys()}
        counters = {f"{owner}.num_batches_tracked".lstrip(".") for owner in owners}
        for node in list(self._graph.nodes):
            spec = self._specs.get(node.name)
            if node.name in self._idle and spec is not None and spec.target in counters:
                self._drop(node)

    def _rename(self, node: Node, wish: str) -> None:
        """Give a new parameter the name of the one that it replaced, now that it is free."""
        target = str(self._specs[node.name].target)
        if node.users and wish not in self._state and wish not in self._constants:
            self._state[wish] = self._state.pop(target)
            self._specs[node.name].target = wish

    def _drop(self, node: Node) -> None:
        target = str(self._specs[node.name].target)
        self._state.pop(target, None)
        self._constants.pop(target, None)
        self._graph.erase_node(node)

    def result(self) -> tuple[dict[str, Any], dict[str, Any], list[InputSpec]]:
        """The state and the constants, none of them the program's own, and the graph's inputs.

        Training the model further must not change half of the folded one.
        """
        copies: dict[int, torch.Tensor] = {}
        for stored, old in (
            (self._state, self._program.state_dict),
            (self._constants, self._program.constants),
        ):
            for name, value in stored.items():
                if isinstance(value, torch.Tensor) and value is old.get(name):
                    stored[name] = copies.setdefault(id(value), copied_tensor(value))
        nodes = [node for node in self._graph.nodes if node.op == "placeholder"]
        return self._state, self._constants, [self._specs[node.name] for node in nodes]


def as_tensor(number: Cast) -> torch.Tensor:
    """NumPy has no bfloat16 that torch knows, but its bits."""
    array = np.ascontiguousarray(number.array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
