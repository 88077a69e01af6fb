"""A torch.export program as the planner's graph.

Values have the names of their nodes. Whatever is computed from parameters and buffers alone, such
as a weight under weight_norm, is a constant; its numbers are computed in float64 when asked for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from bncheck.graph.dataflow import (
    Add,
    Enclosed,
    Floats,
    Graph,
    Identity,
    Linear,
    Mul,
    Norm,
    Op,
    Opaque,
    Shape,
    Spec,
    Split,
    Value,
)
from bncheck.graph.program.algebra import BATCH_NORMS, elementwise, linear_algebra, norms
from bncheck.graph.program.calls import (
    Arguments,
    Described,
    filled,
    is_made,
    module_path,
    operator_name,
    rank_of,
    shape_and_dtype,
)
from bncheck.graph.program.double import evaluated
from bncheck.graph.program.gathers import picks
from bncheck.graph.program.pooling import pooling, windows
from bncheck.graph.program.views import LIKE, joins, views

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def read_program(program: ExportedProgram) -> Graph:
    """The program's graph for the planner."""
    return _Reader(program).graph()


def _updated(program: ExportedProgram) -> set[str]:
    """Statistics that a batch_norm in training mode changes, which its schema does not say."""
    found = set()
    for node in program.graph.nodes:
        if node.op == "call_function" and operator_name(node) in ("batch_norm", "instance_norm"):
            a = Arguments(node)
            if a.first("training", "use_input_stats"):
                found |= {n.name for n in (a("running_mean"), a("running_var")) if n is not None}
    return found


def parameter_names(program: ExportedProgram) -> dict[str, str]:
    """Graph inputs that are parameters, buffers or constants, with their names in the model."""
    return {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.target is not None and hasattr(spec.arg, "name")
    }


class _Reader:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.labels = parameter_names(program)
        mutated = set(program.graph_signature.buffers_to_mutate.values())
        mutated |= set(getattr(program.graph_signature, "parameters_to_mutate", {}).values())
        self.fixed: dict[str, torch.Tensor] = {}
        mutated |= {self.labels.get(name, "") for name in _updated(program)}
        for name, target in self.labels.items():
            tensor = program.state_dict.get(target, program.constants.get(target))
            if isinstance(tensor, torch.Tensor) and target not in mutated:
                self.fixed[name] = tensor
        self.constants: set[Node] = set()
        self.values: dict[str, Value] = {}
        self.ops: list[Op] = []
        self._numbers = lru_cache(maxsize=None)(self._evaluate)

    def graph(self) -> Graph:
        outputs: set[str] = set()
        for node in self.program.graph.nodes:
            if node.op == "output":
                outputs = {n.name for n in node.all_input_nodes}
            elif node.op == "call_function":
                self._call(node)
            else:
                self._leaf(node)
        inside = tuple(self._enclosed(self.program.graph_module, self.labels))
        return Graph(tuple(self.ops), self.values, frozenset(outputs), inside)

    def _enclosed(self, module: torch.fx.GraphModule, labels: dict[str, str]) -> Iterator[Enclosed]:
        """Normalisations in the graphs that calls such as torch.cond get as arguments."""
        for node in module.graph.nodes:
            if node.op != "call_function" or isinstance(node.target, torch._ops.OpOverload):
                continue
            names = [n.target for n in node.all_input_nodes if n.op == "get_attr"]
            graphs = [getattr(module, str(name), None) for name in names]
            leaves = pytree.tree_leaves((node.args, node.kwargs))
            given = [n for n in leaves if isinstance(n, Node) and n.op != "get_attr"]
            for inner in graphs:
                if isinstance(inner, torch.fx.GraphModule):
                    # The last arguments are the inner graph's inputs, in their order.
                    holders = [n for n in inner.graph.nodes if n.op == "placeholder"]
                    pairs = zip(reversed(holders), reversed(given), strict=False)
                    known = {h.name: labels[n.name] for h, n in pairs if n.name in labels}
                    for inside in inner.graph.nodes:
                        called = inside.op == "call_function"
                        if called and operator_name(inside) in (*BATCH_NORMS, "instance_norm"):
                            label = self._owner(inside, known) or module_path(inside) or inside.name
                            yield Enclosed(label, operator_name(inside), operator_name(node))
                    yield from self._enclosed(inner, known)

    def _leaf(self, node: Node) -> None:
        tensor = self.fixed.get(node.name)
        if node.op == "get_attr":
            found = getattr(self.program.graph_module, str(node.target), None)
            tensor = found if isinstance(found, torch.Tensor) else None
            if tensor is not None:
                self.fixed[node.name] = tensor
        if tensor is not None:
            self.constants.add(node)
        self._value(node, self.labels.get(node.name, ""))

    def _value(self, node: Node, label: str = "") -> None:
        fixed = node in self.constants
        shape, dtype = shape_and_dtype(node.meta.get("val"))
        numbers = (lambda: _floats(self._numbers(node))) if fixed else None
        tensor = self.fixed.get(node.name)
        native = tensor is not None and dtype in ("float32", "float64", "float16")
        stored = (lambda: tensor.detach().cpu().numpy()) if native else None  # type: ignore[union-attr]
        self.values[node.name] = Value(node.name, shape, dtype, numbers, label, stored)

    def _call(self, node: Node) -> None:
        sources = node.all_input_nodes
        name = operator_name(node)
        made = filled(node, name)
        if made is not None:
            self.fixed[node.name] = made
            self.constants.add(node)
            self._value(node)
            return
        known = bool(sources) or is_made(node, name)
        if known and all(n in self.constants for n in sources) and _is_pure(node):
            self.constants.add(node)
            self._value(node)
            return
        self._value(node)
        if node.target is operator.getitem and not node.users:
            return  # one of several results, which nobody takes
        steps = windows(name, Arguments(node), node)
        if steps is not None:
            self._windows(node, name, steps)
            return
        spec, inputs = _describe(node, name, self._constant)
        left = inputs[0] if name in ("matmul", "mm") and isinstance(spec, Linear) else None
        if left in self.constants and rank_of(left) == 2:
            spec, inputs = Linear(True, axes=(-2, -2)), (inputs[1], inputs[0], None)  # W @ x
        names = tuple(self._input(node, i, item, spec) for i, item in enumerate(inputs))
        read = {n for n in names if n}
        read |= {item[0].name for item in inputs if isinstance(item, tuple)}
        # Whoever reads a tensor in a way that is not described still reads it.
        rest = tuple(n.name for n in sources if n.name not in read and name not in LIKE)
        outputs: tuple[str, ...] = (node.name,)
        if isinstance(spec, Split):
            outputs = tuple(self._piece(node, i) for i in range(len(spec.parts)))
        kind = "batch_norm" if name in BATCH_NORMS else name
        self.ops.append(Op(node.name, spec, names + rest, outputs, self._label(node, spec), kind))

    def _windows(self, node: Node, name: str, steps: tuple[Spec, Shape, Spec]) -> None:
        """Two operations for a call that slides a window."""
        source, between = node.all_input_nodes[0].name, f"{node.name}:windows"
        first, shape, second = steps
        self.values[between] = Value(between, shape, self.values[node.name].dtype)
        label = self._label(node, second)
        self.ops.append(Op(between, first, (source,), (between,), label, name))
        self.ops.append(Op(node.name, second, (between,), (node.name,), label, name))

    def _piece(self, node: Node, index: int) -> str:
        """Output `index` of a call with several: the node that takes it, where there is one."""
        if not isinstance(node.meta.get("val"), (list, tuple)):
            return node.name
        name = f"{node.name}[{index}]"
        shape, dtype = shape_and_dtype(node.meta["val"][index])
        self.values[name] = Value(name, shape, dtype)
        return name

    def _input(self, node: Node, slot: int, item: Any, spec: Spec) -> str | None:
        if isinstance(item, Node):
            return item.name
        if isinstance(item, tuple):  # (node, index): one output of several
            return f"{item[0].name}[{item[1]}]"
        if isinstance(item, (int, float)) and not isinstance(item, bool) and _is_elementwise(spec):
            name = f"{node.name}:{slot}"
            number = np.asarray(item, dtype=np.float64)
            dtype = self.values[node.name].dtype
            self.values[name] = Value(name, (), dtype, lambda: number)
            return name
        return None

    def _label(self, node: Node, spec: Spec) -> str:
        """The module that made the call; for a normalisation, the owner of its statistics."""
        owner = self._owner(node, self.labels) if isinstance(spec, Norm) else ""
        return owner or module_path(node) or node.name

    @staticmethod
    def _owner(node: Node, labels: dict[str, str]) -> str:
        """The module that holds a normalisation's parameters."""
        names = [labels.get(n.name, "") for n in node.args[1:5] if isinstance(n, Node)]
        return next((owner for name in names if (owner := name.rpartition(".")[0])), "")

    def _constant(self, node: Node) -> torch.Tensor | None:
        return self._numbers(node) if node in self.constants else None

    def _evaluate(self, node: Node) -> torch.Tensor:
        if node.name in self.fixed:
            return self.fixed[node.name]
        return evaluated(node, self._numbers)


def _floats(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
    return array


def _is_pure(node: Node) -> bool:
    target = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags and isinstance(
        node.meta.get("val"), (torch.Tensor, tuple, list)
    )


def _is_elementwise(spec: Spec) -> bool:
    return isinstance(spec, (Add, Mul))


def _describe(node: Node, name: str, constant: Callable[[Node], torch.Tensor | None]) -> Described:
    arguments = Arguments(node)
    if node.target is operator.getitem:
        return _getitem(node, constant)
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        return _opaque(node, name)
    for family in (linear_algebra, norms, elementwise, views, joins, pooling):
        found = family(node, name, arguments)
        if found is not None:
            return found
    return picks(node, name, arguments, constant) or _opaque(node, name)


def _opaque(node: Node, name: str) -> Described:
    return Opaque(name), tuple(node.all_input_nodes)


def _getitem(node: Node, constant: Callable[[Node], torch.Tensor | None]) -> Described:
    source, index = node.args
    assert isinstance(source, Node)
    spec, _ = _describe(source, operator_name(source), constant)
    if isinstance(spec, Split):
        return Identity(), ((source, index),)
    return (Identity() if index == 0 else Opaque("getitem")), (source,)
