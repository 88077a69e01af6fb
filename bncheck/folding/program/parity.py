"""Is the folded program the same function? The original, computed in float64, is the judge.

Inputs are fresh and signed, at two batch sizes where the program accepts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from bncheck.folding.difference import ENOUGH_VALUES, Difference, Output
from bncheck.folding.inside import Inside, thinned
from bncheck.folding.program.exporting import has_free_batch, user_inputs
from bncheck.folding.program.precise import run_as_written, run_in_float64
from bncheck.folding.program.rewrite import Rewritten
from bncheck.folding.result import TOLERANCES, Parity

_BATCHES = (2, 3)
_SEED = 20260
_SIZE = 8  # of an axis that may have any size


def check(
    original: ExportedProgram,
    planned: ExportedProgram,
    folded: Rewritten,
    boundary: Collection[str],
    tolerance: float | None = None,
    extra: Sequence[tuple[Any, ...]] = (),
) -> Parity:
    """Compare on fresh inputs, and on the flat inputs in `extra`.

    `planned` is the original without calls in place, the one that the fold began with; `boundary`
    names its values that are compared beside the outputs.
    """
    limit = default_tolerance(original) if tolerance is None else tolerance
    outputs, inside = Difference(limit), Inside(Difference(limit))
    fresh = _fresh(original)
    usual = [*itertools.islice(fresh, len(_BATCHES) if has_free_batch(original) else 1), *extra]
    refused: RuntimeError | None = None
    for tried, flat in enumerate(itertools.chain(usual, itertools.islice(fresh, ENOUGH_VALUES))):
        if tried >= len(usual) and not outputs.needs_more and not inside.wants_more:
            break
        try:
            precise = run_in_float64(original, flat)
        except RuntimeError as error:
            # A size that is written into the model, as in x.view(2, -1), need not show in the
            # program: fresh inputs of another are left out where others are accepted.
            refused = error
            continue
        batch = _batch_of(flat)
        results = (run_as_written(program, flat) for program in (folded.program, original))
        outputs.add(batch, arrays(precise), *map(arrays, results))
        if inside.wants_more:
            inside.add(batch, *_values(planned, folded, boundary, flat))
    if refused is not None and not outputs.batches:
        raise refused
    outputs.refuse_nothing()
    parity = inside.judge(outputs.parity())
    return parity if parity.holds else replace(parity, parts_at=_owner(planned, inside.first))


def _values(
    planned: ExportedProgram, folded: Rewritten, boundary: Collection[str], flat: Sequence[Any]
) -> Iterator[dict[str, Output]]:
    """What should be equal, by its name in the original: see Inside.add."""
    there = {node.name for node in folded.program.graph.nodes}
    twins = {
        node.name: folded.twins[node.name]
        for node in planned.graph.nodes
        if _is_compared(node) and node.name in boundary and folded.twins[node.name] in there
    }
    yield _seen(run_in_float64, planned, flat, twins)
    new = _seen(run_in_float64, folded.program, flat, set(twins.values()))
    yield new | {name: new[twin] for name, twin in twins.items()}
    yield _seen(run_as_written, planned, flat, twins)


def _is_compared(node: Node) -> bool:
    value = node.meta.get("val")
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return node.op == "call_function" and floats


def _seen(
    run: Callable[..., list[torch.Tensor]],
    program: ExportedProgram,
    flat: Sequence[Any],
    names: Collection[str],
) -> dict[str, Output]:
    seen: dict[str, Output] = {}

    def keep(node: Node, value: Any) -> None:
        if node.name in names:
            seen[node.name] = thinned(*arrays([value]))

    results = arrays(run(program, flat, keep))
    return seen | {f"output {place}": thinned(result) for place, result in enumerate(results)}


def _owner(program: ExportedProgram, name: str | None) -> str | None:
    """The module that makes a value."""
    from bncheck.graph.program.calls import module_path

    found = next((node for node in program.graph.nodes if node.name == name), None)
    return name if found is None else module_path(found) or name


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
    first = _BATCHES if has_free_batch(program) else ()
    for batch in itertools.chain(first, itertools.repeat(ENOUGH_VALUES // 4)):
        yield tuple(_fresh_input(node, batch, generator) for node in nodes)


def _batch_of(flat: Sequence[Any]) -> int:
    return next((t.shape[0] for t in flat if isinstance(t, torch.Tensor) and t.dim()), 0)


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
