"""Is the folded program the same function? The original, computed in float64, is the judge.

Inputs are fresh and signed, at two batch sizes where the program accepts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from bncheck.folding.difference import ENOUGH_VALUES, Difference, Output, relative_error
from bncheck.folding.precise import graph_inputs, run_in_float64, user_outputs
from bncheck.folding.result import TOLERANCES, Parity

_BATCHES = (2, 3)
_SEED = 20260
_SIZE = 8  # of an axis that may have any size


def check(
    original: ExportedProgram,
    planned: ExportedProgram,
    folded: ExportedProgram,
    altered: Collection[str],
    tolerance: float | None = None,
    extra: Sequence[tuple[Any, ...]] = (),
) -> Parity:
    """Compare on fresh inputs, and on the flat inputs in `extra`.

    `planned` is the original without calls in place, the one that the fold began with; `altered`
    names its values that differ by intention, and where the two part is looked for elsewhere.
    """
    module = folded.module()
    limit = default_tolerance(original) if tolerance is None else tolerance
    difference = Difference(limit)
    fresh = _fresh(original)
    usual = [*itertools.islice(fresh, len(_BATCHES) if _has_free_batch(original) else 1), *extra]
    accepted: list[tuple[Any, ...]] = []
    refused: RuntimeError | None = None
    for tried, flat in enumerate(itertools.chain(usual, itertools.islice(fresh, ENOUGH_VALUES))):
        if tried >= len(usual) and not difference.needs_more:
            break
        try:
            precise = run_in_float64(original, flat)
            new = _run_module(module, folded, flat)
        except RuntimeError as error:
            # A size that is written into the model, as in x.view(2, -1), need not show in the
            # program: fresh inputs of another are left out where others are accepted.
            refused = error
            continue
        accepted.append(flat)
        difference.add(
            _batch_of(flat),
            arrays(precise),
            arrays(new),
            arrays(run_graph(original, flat)),
        )
    if refused is not None and not accepted:
        raise refused
    parity = difference.parity()
    if parity.holds:
        return parity
    return difference.parity(_where(planned, folded, accepted[0], altered, limit))


def arrays(tensors: Sequence[torch.Tensor]) -> list[Output]:
    """In float64, for the comparison."""
    return [tensor.detach().cpu().double().numpy() for tensor in tensors]


def default_tolerance(program: ExportedProgram) -> float:
    """By the narrowest floating dtype among parameters, buffers and inputs."""
    tensors = [t for t in program.state_dict.values() if isinstance(t, torch.Tensor)]
    tensors += [
        node.meta["val"]
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
    ]
    names = {str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()}
    return max((TOLERANCES[name] for name in names if name in TOLERANCES), default=1e-5)


def _fresh(program: ExportedProgram) -> Iterator[tuple[Any, ...]]:
    """Inputs at two batch sizes, and as many more as anybody asks for."""
    generator = torch.Generator().manual_seed(_SEED)
    nodes = user_inputs(program)
    first = _BATCHES if _has_free_batch(program) else ()
    for batch in itertools.chain(first, itertools.repeat(ENOUGH_VALUES // 4)):
        yield tuple(_fresh_input(node, batch, generator) for node in nodes)


def _batch_of(flat: Sequence[Any]) -> int:
    return next((t.shape[0] for t in flat if isinstance(t, torch.Tensor) and t.dim()), 0)


def user_inputs(program: ExportedProgram) -> list[Node]:
    """The graph inputs that the caller gives."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [
        nodes[spec.arg.name]
        for spec in program.graph_signature.input_specs
        if spec.kind == InputKind.USER_INPUT
    ]


def _has_free_batch(program: ExportedProgram) -> bool:
    values = [node.meta.get("val") for node in user_inputs(program)]
    return any(
        isinstance(v, torch.Tensor) and v.dim() and isinstance(v.shape[0], torch.SymInt)
        for v in values
    )


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


def run_graph(program: ExportedProgram, flat: tuple[Any, ...]) -> list[torch.Tensor]:
    """The floating outputs that the user sees, in the program's own dtypes."""
    with torch.no_grad():
        everything = graph_inputs(program, flat)
        results = Interpreter(program.graph_module).run(*everything, enable_io_processing=False)
    return user_outputs(program, results)


def _run_module(
    module: torch.nn.Module, program: ExportedProgram, flat: tuple[Any, ...]
) -> list[torch.Tensor]:
    args, kwargs = pytree.tree_unflatten(list(flat), program.call_spec.in_spec)
    with torch.no_grad():
        results = pytree.tree_leaves(module(*args, **kwargs))
    return [r for r in results if isinstance(r, torch.Tensor) and r.is_floating_point()]


def _where(
    original: ExportedProgram,
    folded: ExportedProgram,
    flat: tuple[Any, ...],
    altered: Collection[str],
    tolerance: float,
) -> str | None:
    """The first call, by name, whose results differ although they should not."""
    from bncheck.folding.export_calls import module_path

    results: dict[str, torch.Tensor] = {}

    def keep(node: Node, value: Any) -> None:
        if node.op == "call_function" and isinstance(value, torch.Tensor):
            results[node.name] = value

    found: list[str] = []

    def compare(node: Node, value: Any) -> None:
        known = node.name in results and node.name not in altered
        if not known or found or not isinstance(value, torch.Tensor):
            return
        if not value.is_floating_point():
            return
        if relative_error(*arrays((results[node.name], value))) > tolerance:
            found.append(module_path(node) or node.name)

    run_in_float64(original, flat, keep)
    run_in_float64(folded, flat, compare)
    return found[0] if found else None
