"""A torch.export program as the planner's graph. Values have the names of their nodes."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from bncheck.graph.aten.norms import BATCH_NORMS
from bncheck.graph.aten.pooling import windows
from bncheck.graph.aten.views import LIKE
from bncheck.graph.dataflow import Floats, Graph, Op, Shape, Value, without_idle
from bncheck.graph.program.calls import (
    Arguments,
    ProgramCall,
    module_path,
    operator_name,
    shape_and_dtype,
)
from bncheck.graph.program.constants import Constants
from bncheck.graph.program.described import described
from bncheck.graph.program.enclosed import enclosed, owner
from bncheck.graph.program.recurrent import Recurrence, recurrence
from bncheck.graph.program.samples import with_samples_apart
from bncheck.graph.specs import Add, Larger, Mul, Norm, Recurrent, Spec, Split

if TYPE_CHECKING:
    from torch.export import ExportedProgram

#: What numpy has as it is.
_NATIVE = ("float32", "float64", "float16")


def read_program(program: ExportedProgram) -> Graph:
    """The program's graph for the planner."""
    return _Reader(program).graph()


def _updated(program: ExportedProgram) -> set[str]:
    """Statistics that a batch_norm in training mode changes, which its schema does not say."""
    found = set()
    for node in program.graph.nodes:
        if _updates(node):
            a = Arguments(node)
            found |= {n.name for n in (a("running_mean"), a("running_var")) if n is not None}
    return found


def _updates(node: Node) -> bool:
    is_norm = node.op == "call_function" and operator_name(node) in ("batch_norm", "instance_norm")
    return is_norm and bool(Arguments(node).first("training", "use_input_stats"))


def _does_more(node: Node) -> bool:
    """Whether a call may do more than make its result, and so counts where nobody reads that."""
    if isinstance(node.target, torch._ops.HigherOrderOperator) or node.is_impure():
        return True
    return _updates(node)


def parameter_names(program: ExportedProgram) -> dict[str, str]:
    """Graph inputs that are parameters, buffers or constants, with their names in the model."""
    return {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.target is not None and hasattr(spec.arg, "name")
    }


def _fixed(program: ExportedProgram, labels: dict[str, str]) -> dict[str, torch.Tensor]:
    """The parameters, buffers and constants that no call changes."""
    mutated = set(program.graph_signature.buffers_to_mutate.values())
    mutated |= set(getattr(program.graph_signature, "parameters_to_mutate", {}).values())
    mutated |= {labels.get(name, "") for name in _updated(program)}
    tensors = {
        name: program.state_dict.get(target, program.constants.get(target))
        for name, target in labels.items()
        if target not in mutated
    }
    return {name: t for name, t in tensors.items() if isinstance(t, torch.Tensor)}


class _Reader:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.labels = parameter_names(program)
        self.constants = Constants(_fixed(program, self.labels))
        self.values: dict[str, Value] = {}
        self.ops: list[Op] = []

    def graph(self) -> Graph:
        outputs: set[str] = set()
        for node in self.program.graph.nodes:
            if node.op == "output":
                outputs = {n.name for n in node.all_input_nodes}
            elif node.op == "call_function":
                self._call(node)
            else:
                self._leaf(node)
        inside = tuple(enclosed(self.program.graph_module, self.labels))
        ops = with_samples_apart(self.ops, self.values, frozenset(outputs))
        # What is computed of fixed numbers is no call here, and still reads them.
        nodes = self.program.graph.nodes
        kept = (n for n in nodes if _does_more(n) or (n in self.constants and n.users))
        needed = outputs | {node.name for node in kept}
        calls = tuple(without_idle(ops, needed))
        return Graph(calls, self.values, frozenset(outputs), inside, of_modules=True)

    def _leaf(self, node: Node) -> None:
        inside = node.op == "get_attr"
        found = getattr(self.program.graph_module, str(node.target), None) if inside else None
        self.constants.add_leaf(node, found)
        self._value(node, self.labels.get(node.name, ""))

    def _value(self, node: Node, label: str = "") -> None:
        fixed = node in self.constants
        shape, dtype = shape_and_dtype(node.meta.get("val"))
        numbers = (lambda: _floats(self.constants[node])) if fixed else None
        tensor = self.constants.stored.get(node.name)
        native = tensor is not None and dtype in _NATIVE
        stored = (lambda: tensor.detach().cpu().numpy()) if native else None  # type: ignore[union-attr]
        origin = self._origin(node) if fixed and not label else ()
        self.values[node.name] = Value(
            node.name, shape, dtype, numbers, label, stored, made_from=origin
        )

    def _origin(self, node: Node) -> tuple[str, ...]:
        """The parameters that fixed numbers are computed from."""
        sources = [self.values[source.name] for source in node.all_input_nodes]
        labels = (name for v in sources for name in (v.label, *v.made_from) if name)
        return tuple(dict.fromkeys(labels))

    def _call(self, node: Node) -> None:
        fixed = self.constants.add_call(node)
        self._value(node)
        normalised = fixed and operator_name(node) in BATCH_NORMS  # is to be found, and goes
        if (fixed and not normalised) or (node.target is operator.getitem and not node.users):
            return  # the latter: one of several results, whose output is unused
        call = ProgramCall(node, self.constants)
        steps = windows(call)
        if steps is not None:
            self._windows(node, steps)
            return
        recurrent = recurrence(node)
        if recurrent is not None and all(p in self.constants for p in recurrent.parameters):
            self._recurrent(node, recurrent)
            return
        spec, inputs = described(call)
        names = [self._input(node, i, item, spec) for i, item in enumerate(inputs)]
        tensors = [item[0] if isinstance(item, tuple) else item for item in inputs]
        read = {item.name for item in tensors if isinstance(item, Node)}
        # Whoever reads a tensor in a way that is not described still reads it.
        name = call.name
        rest = [n.name for n in node.all_input_nodes if n.name not in read and name not in LIKE]
        outputs: tuple[str, ...] = (node.name,)
        if isinstance(spec, Split):
            outputs = tuple(self._piece(node, i) for i in range(len(spec.parts)))
        kind = "batch_norm" if name in BATCH_NORMS else name
        label = self._label(node, spec)
        self.ops.append(Op(node.name, spec, (*names, *rest), outputs, label, kind))

    def _windows(self, node: Node, steps: tuple[Spec, Shape, Spec]) -> None:
        """Two operations for a call that slides a window."""
        source, between = node.all_input_nodes[0].name, f"{node.name}:windows"
        first, shape, second = steps
        self.values[between] = Value(between, shape, self.values[node.name].dtype)
        label, kind = self._label(node, second), operator_name(node)
        self.ops.append(Op(between, first, (source,), (between,), label, kind))
        self.ops.append(Op(node.name, second, (between,), (node.name,), label, kind))

    def _recurrent(self, node: Node, parts: Recurrence) -> None:
        """One operation; the first matrices of both directions are one on top of the other."""
        names = (
            self._joined(node, "weight", [parts.parameters[place] for place in parts.weights]),
            self._joined(node, "bias", [parts.parameters[place] for place in parts.biases]),
        )
        rest = [n.name for n in node.all_input_nodes if n is not parts.source]
        spec = Recurrent(bool(parts.biases))
        inputs = (parts.source.name, *names, *rest)
        kind = operator_name(node)
        self.ops.append(Op(node.name, spec, inputs, (node.name,), self._label(node, spec), kind))

    def _joined(self, node: Node, role: str, parts: list[Node]) -> str | None:
        if not parts:
            return None
        values, name = [self.values[part.name] for part in parts], f"{node.name}:{role}"
        sizes = [part.meta["val"].shape for part in parts]
        shape = (sum(size[0] for size in sizes), *sizes[0][1:])
        numbers = lambda: np.concatenate([_floats(self.constants[part]) for part in parts])  # noqa: E731
        self.values[name] = Value(name, shape, values[0].dtype, numbers)
        return name

    def _piece(self, node: Node, index: int) -> str:
        """Output `index` of a call with several: the node that takes it, where there is one."""
        if not isinstance(node.meta.get("val"), (list, tuple)):
            return node.name
        name = f"{node.name}[{index}]"
        shape, dtype = shape_and_dtype(node.meta["val"][index])
        self.values[name] = Value(name, shape, dtype)
        return name

    def _input(self, node: Node, slot: int, item: Any, spec: Spec) -> str | None:
        """The name of an input; a number has a value of its own."""
        if isinstance(item, Node):
            return item.name
        if isinstance(item, tuple):
            return f"{item[0].name}[{item[1]}]"
        is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
        if not is_number or not isinstance(spec, (Add, Mul, Larger)):
            return None
        name = f"{node.name}:{slot}"
        number = np.asarray(item, dtype=np.float64)
        self.values[name] = Value(name, (), self.values[node.name].dtype, lambda: number)
        return name

    def _label(self, node: Node, spec: Spec) -> str:
        """The module that made the call; for a normalisation, the owner of its statistics."""
        found = owner(node, self.labels) if isinstance(spec, Norm) else ""
        return found or module_path(node) or node.name


def _floats(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
    return array
