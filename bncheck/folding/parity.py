"""Is the folded program the same function? The original, computed in float64, is the judge.

Inputs are fresh and signed, at two batch sizes where the program accepts them; errors are taken
per output channel, relative to the channel's largest value. A tolerance on absolute errors would
mean nothing: equally good folds range from 7e-6 to 3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from bncheck.folding.precise import graph_inputs, run_in_float64, user_outputs
from bncheck.folding.result import TOLERANCES, Parity

_BATCHES = (2, 3)
#: A channel that is small beside the others is measured against this part of the largest value: a
#: logit that happens to be near 0 for two samples is a difference of large numbers, and float32
#: leaves 1e-7 of these whoever computes it.
FLOOR = 0.05
_SEED = 20260
_SIZE = 8  # of an axis that may have any size


def check(
    original: ExportedProgram,
    folded: ExportedProgram,
    altered: Collection[str],
    tolerance: float | None = None,
    extra: Sequence[tuple[Any, ...]] = (),
) -> Parity:
    """Compare on fresh inputs, and on the flat inputs in `extra`.

    `altered` names the values that differ by intention; where the two part is looked for elsewhere.
    """
    module = folded.module()
    worst = own = 0.0
    agreement: list[float] = []
    batches = []
    bad: tuple[Any, ...] | None = None
    for batch, flat, precise in _references(original, extra):
        batches.append(batch)
        error = _worst(precise, _run_module(module, folded, flat))
        if error > worst:
            worst, bad = error, flat
        own = max(own, _worst(precise, _run_graph(original, flat)))
        agreement += _agreement(precise, _run_module(module, folded, flat))
    limit = default_tolerance(original) if tolerance is None else tolerance
    share = min(agreement) if agreement else None
    parity = Parity(worst, own, limit, tuple(batches), share)
    if parity.holds or bad is None:
        return parity
    place = _where(original, folded, bad, altered, limit)
    return Parity(worst, own, limit, tuple(batches), share, place)


def _references(
    original: ExportedProgram, extra: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, tuple[Any, ...], list[torch.Tensor]]]:
    """Inputs with what the original makes of them in float64.

    A size that is written into the model, as in x.view(2, -1), need not show in the program: fresh
    inputs of another are left out where others are accepted.
    """
    refused: RuntimeError | None = None
    accepted = 0
    for batch, flat in _fresh(original):
        try:
            precise = run_in_float64(original, flat)
        except RuntimeError as error:
            refused = error
            continue
        accepted += 1
        yield batch, flat, precise
    for flat in extra:
        accepted += 1
        yield _batch_of(flat), flat, run_in_float64(original, flat)
    if refused is not None and not accepted:
        raise refused


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


def _fresh(program: ExportedProgram) -> Iterator[tuple[int, tuple[Any, ...]]]:
    generator = torch.Generator().manual_seed(_SEED)
    batches = _BATCHES if _has_free_batch(program) else (0,)
    for batch in batches:
        flat = tuple(_fresh_input(node, batch, generator) for node in user_inputs(program))
        yield _batch_of(flat), flat


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


def _run_graph(program: ExportedProgram, flat: tuple[Any, ...]) -> list[torch.Tensor]:
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


def _worst(reference: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> float:
    pairs = zip(reference, given, strict=True)
    return max((relative_error(first, second) for first, second in pairs), default=0.0)


def relative_error(reference: torch.Tensor, given: torch.Tensor) -> float:
    """The largest difference in any channel, relative to that channel's largest value."""
    if reference.shape != given.shape:
        return float("inf")
    if not reference.numel():
        return 0.0
    first, second = _by_channel(reference.double()), _by_channel(given.double())
    unequal = ~((first == second) | (first.isnan() & second.isnan()))
    difference = torch.where(unequal, (first - second).abs(), 0.0).amax(1)
    if not difference.isfinite().all():
        return float("inf")
    size = torch.where(first.isfinite(), first.abs(), 0.0).amax(1)
    floor = (FLOOR * size.max()).clamp_min(torch.finfo(torch.float64).tiny)
    return float((difference / torch.maximum(size, floor)).max())


def _by_channel(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() < 2:
        return tensor.reshape(1, -1)
    return tensor.movedim(1, 0).reshape(tensor.shape[1], -1)


def _agreement(reference: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> list[float]:
    """How often both name the same class, where an output looks like scores of classes."""
    return [
        float((first.argmax(1) == second.argmax(1)).double().mean())
        for first, second in zip(reference, given, strict=True)
        if first.dim() == 2 and first.shape[1] > 1 and first.shape == second.shape
    ]


def _where(
    original: ExportedProgram,
    folded: ExportedProgram,
    flat: tuple[Any, ...],
    altered: Collection[str],
    tolerance: float,
) -> str | None:
    """The first call, by name, whose results differ although they should not."""
    from bncheck.folding.from_export import module_path

    results: dict[str, torch.Tensor] = {}

    def keep(node: Node, value: Any) -> None:
        if node.op == "call_function" and isinstance(value, torch.Tensor):
            results[node.name] = value

    found: list[str] = []

    def compare(node: Node, value: Any) -> None:
        known = node.name in results and node.name not in altered
        if not known or found or not isinstance(value, torch.Tensor):
            return
        if value.is_floating_point() and relative_error(results[node.name], value) > tolerance:
            found.append(module_path(node) or node.name)

    run_in_float64(original, flat, keep)
    run_in_float64(folded, flat, compare)
    return found[0] if found else None
