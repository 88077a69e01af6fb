"""An exported program and its fold, side by side: see folding/proof.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from bncheck.folding.difference import Output
from bncheck.folding.program.exporting import has_free_batch, user_inputs
from bncheck.folding.program.rewrite import Rewritten
from bncheck.folding.program.running import run_as_written, run_in_float64
from bncheck.folding.proof import RefusedError, sampled
from bncheck.folding.result import tolerance_for
from bncheck.graph.program.calls import module_path

_SEED = 20260
_SIZE = 8  # of an axis that may have any size

#: The user's inputs in their order, without the structure that they are given in.
Flat = Sequence[Any]


class ProgramSides:
    """`original` is what the user gave, `planned` the same without calls in place.

    `boundary` names the values of `planned` that are compared beside the outputs.
    """

    def __init__(
        self,
        original: ExportedProgram,
        planned: ExportedProgram,
        folded: Rewritten,
        boundary: Collection[str],
        examples: Sequence[Flat] = (),
    ) -> None:
        self.examples = examples
        self.original, self.planned, self.folded = original, planned, folded.program
        self.tolerance = default_tolerance(original)
        self.has_free_batch = has_free_batch(original)
        there = {node.name for node in folded.program.graph.nodes}
        self._twins = {
            node.name: folded.twins[node.name]
            for node in planned.graph.nodes
            if _is_compared(node) and node.name in boundary and folded.twins[node.name] in there
        }
        self._generator = torch.Generator().manual_seed(_SEED)
        self._inputs = user_inputs(original)

    def fresh(self, batch: int) -> Flat:
        """Random inputs."""
        return tuple(_fresh_input(node, batch, self._generator) for node in self._inputs)

    def batch_of(self, inputs: Flat) -> int:
        """The size of the first axis."""
        return next((t.shape[0] for t in inputs if isinstance(t, torch.Tensor) and t.dim()), 0)

    def outputs(self, inputs: Flat) -> tuple[list[Output], list[Output], list[Output]]:
        """Of the original in float64, of the fold, of the original. Raises RefusedError.

        A size that is written into the model, as in x.view(2, -1), need not show in the program,
        nor that an integer is the place of a row in a table.
        """
        try:
            precise = run_in_float64(self.original, inputs)
        except (RuntimeError, IndexError, ValueError) as error:
            raise RefusedError(str(error)) from None
        folded, original = (run_as_written(p, inputs) for p in (self.folded, self.original))
        return arrays(precise), arrays(folded), arrays(original)

    def intermediates(self, inputs: Flat) -> Sequence[dict[str, Output]]:
        """What should be equal, by its name in the original."""
        new = _seen(run_in_float64, self.folded, inputs, set(self._twins.values()))
        return (
            _seen(run_in_float64, self.planned, inputs, self._twins),
            new | {name: new[twin] for name, twin in self._twins.items()},
            _seen(run_as_written, self.planned, inputs, self._twins),
        )

    def maker_of(self, name: str | None) -> str | None:
        """The module that makes a value."""
        found = next((node for node in self.planned.graph.nodes if node.name == name), None)
        return name if found is None else module_path(found) or name


def _is_compared(node: Node) -> bool:
    value = node.meta.get("val")
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return node.op == "call_function" and floats


def _seen(
    run: Callable[..., list[torch.Tensor]],
    program: ExportedProgram,
    inputs: Flat,
    names: Collection[str],
) -> dict[str, Output]:
    seen: dict[str, Output] = {}

    def keep(node: Node, value: Any) -> None:
        if node.name in names:
            seen[node.name] = sampled(*arrays([value]))

    results = arrays(run(program, inputs, keep))
    return seen | {f"output {place}": sampled(result) for place, result in enumerate(results)}


def arrays(tensors: Sequence[torch.Tensor]) -> list[Output]:
    """In float64, for the comparison."""
    return [tensor.detach().cpu().double().numpy() for tensor in tensors]


def default_tolerance(program: ExportedProgram) -> float:
    """By the narrowest floating dtype of all values, inside regions such as autocast, too."""
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, GraphModule)]
    values = [node.meta.get("val") for graph in graphs for node in graph.nodes]
    tensors = [t for t in (*program.state_dict.values(), *values) if isinstance(t, torch.Tensor)]
    return tolerance_for(str(t.dtype).removeprefix("torch.") for t in tensors)


def _fresh_input(node: Node, batch: int, generator: torch.Generator) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return value if not isinstance(value, torch.SymInt) else _size(value, batch, axis=1)
    shape = [_size(size, batch, axis) for axis, size in enumerate(value.shape)]
    if value.is_floating_point():
        # Not of variance 1 about 0: nothing may rest on inputs that look normalised.
        return (torch.randn(shape, generator=generator) * 1.5 - 0.25).to(value.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(value.dtype)


def _size(size: Any, batch: int, axis: int) -> int:
    if isinstance(size, int):
        return size
    if axis == 0 and batch:
        return batch
    hint = size.node.hint if size.node.has_hint() else None
    return int(hint) if hint is not None else _SIZE
