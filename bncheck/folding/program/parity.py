"""An exported program and its fold, side by side: see folding/proof.py."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from bncheck.folding.difference import Output, is_float
from bncheck.folding.program.dtypes import dtypes_of_node, dtypes_of_program
from bncheck.folding.program.exporting import batch_sizes, has_free_batch, user_inputs
from bncheck.folding.program.in_place import changed_in_place
from bncheck.folding.program.rewrite import Rewritten
from bncheck.folding.program.running import Cuttable, run_as_written
from bncheck.folding.program.sizes import fixed_size
from bncheck.folding.proof import Move, Seen, Values, steps
from bncheck.folding.regions import (
    constants_of,
    dependent,
    not_apart,
    passed_on,
    regions_of,
    written_by_exit,
)
from bncheck.folding.result import epsilon_for, tolerance_for
from bncheck.folding.weights import Solution
from bncheck.folding.windows import Window, window_of
from bncheck.graph.dataflow import Op
from bncheck.graph.program.calls import module_path, shape_and_dtype
from bncheck.runtime.refused import RefusedError

_SEED = 20260
_SIZE = 8  # of an axis that may have any size

#: The user's inputs in their order, without the structure that they are given in.
Flat = Sequence[Any]
Cut: TypeAlias = tuple[list[int], list[str]]


class ProgramSides:
    """`original` is what the user gave, `planned` the same without calls in place."""

    failures: tuple[type[Exception], ...] = (RuntimeError, IndexError, ValueError, TypeError)

    def __init__(
        self,
        original: ExportedProgram,
        planned: ExportedProgram,
        folded: Rewritten,
        solution: Solution,
        examples: Sequence[Flat] = (),
        batch_axes: Sequence[int | None] = (),
    ) -> None:
        self.examples, self._batch_axes = examples, batch_axes
        self._given, self._planned, self._folded = original, planned, folded.program
        self._written = written_by_exit(solution)
        self.has_free_batch = has_free_batch(original, batch_axes)
        self._generator = torch.Generator().manual_seed(_SEED)
        self._inputs = user_inputs(original)
        self._twins, self._altered = folded.twins, solution.plan.altered
        self._numbers, self._ops = solution.numbers, {op.name: op for op in solution.graph.ops}
        self._fixed = constants_of(solution)
        self._inside = self._altered | not_apart(solution.graph.ops)
        self._old, self._new = Cuttable(planned), Cuttable(folded.program)
        self._names = [node.name for node in user_inputs(planned)]
        self._changing = dependent(self._old.calls, self._names, self._fixed)
        parts = {
            n.name: [user.name for user in n.users] for n in planned.graph.nodes if _is_tuple(n)
        }
        for name, users in parts.items():
            self._written |= {user: self._written.get(name, frozenset()) for user in users}
        self.regions = self._compared(regions_of(solution), parts)

    def _compared(
        self, regions: Sequence[Sequence[str]], parts: Mapping[str, Sequence[str]]
    ) -> list[list[str]]:
        """What each region makes that both programs have; of several values, what is taken."""
        there = {node.name for node in self._new.nodes}
        seen = {n.name for n in self._old.nodes if _is_compared(n) and self._twins[n.name] in there}
        ends = ([end for name in region for end in parts.get(name, [name])] for region in regions)
        compared = ([name for name in region if name in seen] for region in ends)
        return [region for region in compared if region]

    @cached_property
    def tolerance(self) -> float:
        """Of the dtypes between what is altered and the outputs; of all where a call has a graph of
        its own."""
        ends = {name for region in self.regions for name in region}
        altered = {re.split(r"[\[:]", name)[0] for name in self._altered}
        outputs = [node.name for node in self._old.nodes if node.op == "output"]
        places, names = passed_on(self._old.calls, altered | ends, outputs)
        dtypes = {dtype for name in names for dtype in dtypes_of_node(self._nodes[name])}
        dtypes.update(*self._written.values())
        own = (self._old.nodes[place].target for place in places)
        inner = any(isinstance(target, torch._ops.HigherOrderOperator) for target in own)
        return tolerance_for(dtypes_of_program(self._given) if inner or not dtypes else dtypes)

    def written(self, region: int) -> Collection[str]:
        """The dtypes of its new numbers."""
        found = {d for name in self.regions[region] for d in self._written.get(name, ())}
        return found or dtypes_of_program(self._given)

    @cached_property
    def _cuts(self) -> list[tuple[Cut, Cut]]:
        """Where each region lies in the original and in the fold."""
        found = []
        for region in self.regions:
            old = self._old.cut(region, self._stops)
            entries = {self._twins[name] for name in old[1]}
            ends = [self._twins[name] for name in region]
            found.append((old, self._new.cut(ends, entries.__contains__)))
        return found

    def _stops(self, name: str) -> bool:
        return name in self._changing and name not in self._inside

    def entries(self, region: int) -> Sequence[str]:
        """What a region reads."""
        return self._cuts[region][0][1]

    @cached_property
    def _around(self) -> set[str]:
        """What all regions read and make."""
        return {n for i, region in enumerate(self.regions) for n in (*self.entries(i), *region)}

    @cached_property
    def _nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self._old.nodes}

    @cached_property
    def _windows(self) -> list[Window | None]:
        """How much of the maps that each region reads shows what it does."""
        return [self._window(places, entries) for (places, entries), _ in self._cuts]

    def _window(self, places: Sequence[int], entries: Sequence[str]) -> Window | None:
        maps = {name: self._nodes[name].meta.get("val") for name in entries}
        if not all(isinstance(m, torch.Tensor) and m.is_floating_point() for m in maps.values()):
            return None
        varying, calls = set(entries), list[Op | None]()
        for node in (self._old.nodes[place] for place in places):
            if any(source.name in varying for source in node.all_input_nodes):
                varying.add(node.name)
                calls.append(self._ops.get(node.name))
        sizes = {name: shape_and_dtype(value)[0] or () for name, value in maps.items()}
        return window_of(calls, sizes, self._fixed)

    @cached_property
    def _kept(self) -> dict[str, Window | None]:
        """How much to keep of what regions read, and of what those make that need all of it."""
        kept: dict[str, Window | None] = {}
        for place, (window, region) in enumerate(zip(self._windows, self.regions, strict=True)):
            for name in (*self.entries(place), *(region if window is None else ())):
                before = kept.get(name, window)
                kept[name] = before.joined(window) if before and window else None
        return kept

    @cached_property
    def _watched(self) -> ExportedProgram:
        """The original itself where it has the values under the names by which they are known."""
        given, known = self._given.graph.nodes, self._planned.graph.nodes
        same = [node.name for node in given] == [node.name for node in known]
        return self._given if same else self._planned

    def fresh(self, batch: int) -> Flat:
        """Random inputs."""
        values = [node.meta.get("val") for node in self._inputs]
        firsts = {str(size) for size in batch_sizes(values, self._batch_axes)}
        return tuple(_fresh_input(v, batch, firsts, self._generator) for v in values)

    def batch_of(self, inputs: Flat) -> int:
        """The size of the axis of the batch, the first one unless another was marked."""
        return next(iter(batch_sizes(inputs, self._batch_axes)), 0)

    def original(self, inputs: Flat) -> Seen:
        """The original as written. Raises RefusedError.

        A size that is written into the model, as in x.view(2, -1), need not show in the program,
        nor that an integer is the place of a row in a table.
        """
        values = {name: _seen(v) for name, v in zip(self._names, inputs, strict=True)}
        changed = changed_in_place(self._watched.graph)

        def keep(node: Node, value: Any) -> None:
            if node.name in self._kept:
                window, seen = self._kept[node.name], _seen(value)
                if window is not None:
                    values[node.name] = window.of(seen).copy()
                else:
                    values[node.name] = seen.copy() if node in changed and is_float(seen) else seen

        try:
            if self._watched is self._given:
                return Seen(arrays(run_as_written(self._given, inputs, keep)), values)
            outputs = arrays(run_as_written(self._given, inputs))
        except self.failures as error:
            raise RefusedError(str(error)) from None
        run_as_written(self._planned, inputs, keep)
        return Seen(outputs, values)

    def moved(self, inputs: Flat) -> Iterator[Sequence[Output]]:
        """The original with all values in and around regions off by a unit in the last place."""
        names = self._altered | self._around | set(self._numbers)
        generator = np.random.default_rng(_SEED)

        def change(node: Node, value: Any) -> Any:
            if node.name not in names or not is_float(seen := _seen(value)):
                return value
            factors = steps(seen, epsilon_for(dtypes_of_node(node)), generator)
            return value * torch.from_numpy(factors).to(value.dtype)

        while True:
            yield arrays(run_as_written(self._planned, inputs, change=change))

    def folded(self, inputs: Flat) -> Sequence[Output]:
        """The fold as written."""
        return arrays(run_as_written(self._folded, inputs))

    def enough(self, region: int, values: Values) -> Values:
        """What a region reads, and no more of it than shows what it does."""
        window = self._windows[region]
        if window is None:
            return values
        return {**values, **{name: window.of(values[name]) for name in self.entries(region)}}

    def exits(
        self, region: int, values: Values, *, of_fold: bool, move: Move | None = None
    ) -> dict[str, Output]:
        """What a region makes of these values, in float64."""
        old, new = self._cuts[region]
        given = {n: torch.from_numpy(v) if is_float(v) else v for n, v in values.items()}
        if not of_fold:
            found = self._old.run(old, self.regions[region], given, move)
            return {name: arrays([found[name]])[0] for name in self.regions[region]}
        twins = {name: self._twins[name] for name in self.regions[region]}
        moved = {self._twins.get(name, name): value for name, value in given.items()}
        moved |= {self._twins[name]: given[name] for name in old[1]}
        found = self._new.run(new, set(twins.values()), moved)
        return {name: arrays([found[twin]])[0] for name, twin in twins.items()}

    def maker_of(self, name: str | None) -> str | None:
        """The module that makes a value."""
        found = next((node for node in self._planned.graph.nodes if node.name == name), None)
        return name if found is None else module_path(found) or name


def _is_tuple(node: Node) -> bool:
    """Whether it makes several values, which other nodes take."""
    return isinstance(node.meta.get("val"), (tuple, list))


def _is_compared(node: Node) -> bool:
    value = node.meta.get("val")
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return node.op == "call_function" and floats


def _seen(value: Any) -> Any:
    """A value on the way: floating ones as an array, in their own dtype where NumPy has it."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


def arrays(tensors: Sequence[torch.Tensor]) -> list[Output]:
    """In float64, for the comparison."""
    return [tensor.detach().cpu().double().numpy() for tensor in tensors]


def _fresh_input(value: Any, batch: int, firsts: set[str], generator: torch.Generator) -> Any:
    if not isinstance(value, torch.Tensor):
        return value if not isinstance(value, torch.SymInt) else _size(value, batch, set())
    shape = [_size(size, batch, firsts) for size in value.shape]
    if value.is_floating_point():
        # Not of variance 1 about 0: nothing may rest on inputs that look normalised.
        return (torch.randn(shape, generator=generator) * 1.5 - 0.25).to(value.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(value.dtype)


def _size(size: Any, batch: int, firsts: set[str]) -> int:
    """`firsts` are the symbols of first axes, which a state may have elsewhere."""
    known = fixed_size(size)
    if known is not None:
        return known
    if str(size) in firsts and batch:
        return batch
    hint = size.node.hint if size.node.has_hint() else None
    return int(hint) if hint is not None else _SIZE
