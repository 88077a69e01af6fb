"""Running an exported graph in float64, whatever dtypes it was written for.

`.double()` does not do: a model that casts (`x.float()`, `zeros(dtype=float16)`) would round half
way or fail. So every floating dtype among a call's arguments is replaced, and a floating result
that still is narrower is widened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_NARROW = {torch.float16, torch.bfloat16, torch.float32}
_ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range")


def widened(item: Any) -> Any:
    """A floating tensor or dtype as float64; anything else as it is."""
    if isinstance(item, torch.Tensor) and item.dtype in _NARROW:
        return item.to(torch.float64)
    return torch.float64 if isinstance(item, torch.dtype) and item in _NARROW else item


def in_float64(node: Node, value_of: Callable[[Node], Any]) -> torch.Tensor:
    """One call on fixed numbers, in float64."""

    def load(item: Node) -> Any:
        return widened(value_of(item))

    args = torch.fx.map_arg(node.args, load)
    kwargs = torch.fx.map_arg(node.kwargs, load)
    with torch.no_grad():
        result: torch.Tensor = _call(node.target, *pytree.tree_map(widened, (args, kwargs)))
    return result


def _call(target: Any, args: Any, kwargs: Any) -> Any:
    return pytree.tree_map(widened, target(*args, **kwargs))


class _Precise(Interpreter):
    """Runs a graph in float64; `watch` sees every result."""

    def __init__(
        self, module: torch.fx.GraphModule, watch: Callable[[Node, Any], None] | None
    ) -> None:
        super().__init__(module)
        self._watch = watch

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if self._watch is not None:
            self._watch(n, result)
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if any(name in str(target) for name in _ASSERTIONS):
            return None
        return _call(target, *pytree.tree_map(widened, (args, kwargs)))


def run_in_float64(
    program: ExportedProgram,
    inputs: tuple[Any, ...],
    watch: Callable[[Node, Any], None] | None = None,
) -> list[torch.Tensor]:
    """The program's outputs that the user sees, computed in float64 from flat inputs."""
    everything = graph_inputs(program, inputs)
    with torch.no_grad():
        results = _Precise(program.graph_module, watch).run(
            *[widened(item) for item in everything], enable_io_processing=False
        )
    return user_outputs(program, results)


def graph_inputs(program: ExportedProgram, inputs: tuple[Any, ...]) -> list[Any]:
    """Parameters, buffers, constants and the user's inputs in the order of the graph."""
    stored: Mapping[str, Any] = {**program.constants, **program.state_dict}
    rest = iter(inputs)
    found = []
    for spec in program.graph_signature.input_specs:
        if spec.kind == torch.export.graph_signature.InputKind.USER_INPUT:
            found.append(next(rest))
        else:
            assert spec.target is not None
            value = stored[spec.target]
            # Calls in place must not reach the program's own buffers.
            found.append(value.clone() if isinstance(value, torch.Tensor) else value)
    return found


def user_outputs(program: ExportedProgram, results: Any) -> list[torch.Tensor]:
    """The floating tensors among the outputs that the caller gets."""
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    wanted = torch.export.graph_signature.OutputKind.USER_OUTPUT
    flat = [r for r, kind in zip(results, kinds, strict=True) if kind == wanted]
    return [r for r in flat if isinstance(r, torch.Tensor) and r.is_floating_point()]
