"""Running an exported graph in float64, whatever dtypes it was written for.

`.double()` does not do: a model that casts (`x.float()`, `zeros(dtype=float16)`) would round half
way or fail. So every floating dtype among a call's arguments is replaced, and a floating result
that still is narrower is widened. That is done call by call, so that no more than one call's
weights are held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from bncheck.folding.program.in_place import changed_in_place
from bncheck.folding.regions import Call, Calls, between
from bncheck.graph.program.double import call_in_float64, is_kernel, widened

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Watch = Callable[[Node, Any], None]
Change = Callable[[Node, Any], Any]

_ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range")


class _Watched(Interpreter):
    """Runs a graph; `watch` sees every result, and `change` gives another one in its place."""

    def __init__(
        self, module: GraphModule, watch: Watch | None = None, change: Change | None = None
    ) -> None:
        super().__init__(module)
        self._watch, self._change = watch, change
        self._changed = changed_in_place(module.graph)

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        # Calls in place must not reach the program's own buffers, nor the caller's inputs.
        if n.op == "placeholder" and n in self._changed and isinstance(result, torch.Tensor):
            result = self._copied(result)
        if self._watch is not None:
            self._watch(n, result)
        return result if self._change is None else self._change(n, result)

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()


class _Precise(_Watched):
    """Runs a graph in float64, and the graphs that its calls are given."""

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = super().get_attr(target, args, kwargs)
        return _Precise(found).run if isinstance(found, GraphModule) else found

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.clone(widened(tensor))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if any(name in str(target) for name in _ASSERTIONS):
            return None
        return call_in_float64(target, args, kwargs)


def run_in_float64(
    program: ExportedProgram, inputs: Sequence[Any], watch: Watch | None = None
) -> list[torch.Tensor]:
    """The program's outputs that the user sees, computed in float64 from flat inputs."""
    return _run(program, _Precise(program.graph_module, watch), graph_inputs(program, inputs))


def run_as_written(
    program: ExportedProgram,
    inputs: Sequence[Any],
    watch: Watch | None = None,
    change: Change | None = None,
) -> list[torch.Tensor]:
    """The program's outputs that the user sees, in its own dtypes; its buffers stay unchanged."""
    everything = graph_inputs(program, inputs)
    return _run(program, _Watched(program.graph_module, watch, change), everything)


class Cuttable:
    """A program whose parts are run in float64, each for itself."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self.nodes = list(program.graph.nodes)
        self.calls = Calls(
            Call(tuple(n.name for n in node.all_input_nodes), (node.name,)) for node in self.nodes
        )
        self._by_name = {node.name: node for node in self.nodes}
        self._tuples = {n.name for n in self.nodes if isinstance(n.meta.get("val"), (tuple, list))}
        self._stored = stored_inputs(program)
        self._runner = _Precise(program.graph_module)

    def cut(
        self, exits: Collection[str], stops: Callable[[str], bool]
    ) -> tuple[list[int], list[str]]:
        """The places of the nodes that make the exits, and the values at which that stops."""
        whole = self._tuples
        return between(self.calls, exits, lambda name: name not in whole and stops(name))

    def run(
        self,
        cut: tuple[list[int], list[str]],
        exits: Collection[str],
        values: Mapping[str, Any],
        move: Callable[[Any], Any] | None = None,
    ) -> dict[str, Any]:
        """What these nodes make in float64 of such values at the entries of that part.

        `move` is done to the stored numbers that they read.
        """
        places, entries = cut
        runner = self._runner
        runner.env = {self._by_name[name]: widened(values[name]) for name in entries}
        found = {}
        with torch.no_grad():
            for node in (self.nodes[place] for place in places):
                if node.op == "placeholder":
                    value = self._stored.get(node.name, values.get(node.name))
                    result: Any = value if is_kernel(node) and not move else widened(value)
                    if move and node.name in self._stored and _is_floating(result):
                        result = torch.from_numpy(move(result.detach().cpu().numpy()))
                else:
                    result = runner.run_node(node)
                if node.name in exits:
                    found[node.name] = widened(result)
                if node.name not in entries:
                    runner.env[node] = result
        runner.env = {}
        return found


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def stored_inputs(program: ExportedProgram) -> dict[str, Any]:
    """Parameters, buffers and constants by the names of their nodes."""
    stored: Mapping[str, Any] = {**program.constants, **program.state_dict}
    return {
        spec.arg.name: stored[spec.target]
        for spec in program.graph_signature.input_specs
        if spec.target is not None and hasattr(spec.arg, "name") and spec.target in stored
    }


def _run(
    program: ExportedProgram, runner: Interpreter, everything: list[Any]
) -> list[torch.Tensor]:
    with torch.no_grad():
        results = runner.run(*everything, enable_io_processing=False)
    return user_outputs(program, results)


def graph_inputs(program: ExportedProgram, inputs: Sequence[Any]) -> list[Any]:
    """Parameters, buffers, constants and the user's inputs in the order of the graph."""
    stored: Mapping[str, Any] = {**program.constants, **program.state_dict}
    rest = iter(inputs)
    found = []
    for spec in program.graph_signature.input_specs:
        if spec.kind == torch.export.graph_signature.InputKind.USER_INPUT:
            value = next(rest)
        else:
            assert spec.target is not None
            value = stored[spec.target]
        found.append(value)
    return found


def user_outputs(program: ExportedProgram, results: Any) -> list[torch.Tensor]:
    """The floating tensors among the outputs that the caller gets."""
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    wanted = torch.export.graph_signature.OutputKind.USER_OUTPUT
    flat = [r for r, kind in zip(results, kinds, strict=True) if kind == wanted]
    return [r for r in flat if isinstance(r, torch.Tensor) and r.is_floating_point()]
