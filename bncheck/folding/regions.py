"""Where a fold happens: calls that hang together by the values that it alters.

A region reads values of the original and ends where values are again those of the original. On the
same values at its entries, the original and the fold must give the same values at its exits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from bncheck.folding.weights import Solution
from bncheck.graph.dataflow import Op, Shape
from bncheck.graph.specs import Attended


@dataclass(frozen=True, slots=True)
class Call:
    """A call in a program of either format: the names of what it reads and of what it makes."""

    reads: tuple[str, ...]
    makes: tuple[str, ...]


class Calls(tuple[Call, ...]):
    """All calls of a program in their order."""

    @cached_property
    def makers(self) -> dict[str, int]:
        """Which call makes a value."""
        return {name: place for place, call in enumerate(self) for name in call.makes if name}


def regions_of(solution: Solution) -> list[tuple[str, ...]]:
    """The exits of each region, in the order of the graph."""
    region = _regions(solution)
    found: dict[str, list[str]] = {}
    for op in solution.graph.ops:
        for name in op.outputs:
            if name in solution.boundary:
                found.setdefault(region(name), []).append(name)
    return [tuple(names) for names in found.values()]


def norms_by_exit(solution: Solution) -> dict[str, tuple[str, ...]]:
    """The normalisations that move in the region of each exit."""
    region, ops, targets = _regions(solution), solution.graph.ops, solution.plan.targets
    inside: dict[str, list[str]] = {}
    for norm in solution.plan.norms:
        places = (*norm.ops, *targets[norm.name]) if norm.name in targets else ()
        values = {name for place in places for name in (*ops[place].inputs, *ops[place].outputs)}
        for root in sorted({region(name) for name in values if name}):
            inside.setdefault(root, []).append(norm.name)
    exits = (name for names in regions_of(solution) for name in names)
    return {name: tuple(inside.get(region(name), ())) for name in exits}


def written_by_exit(solution: Solution) -> dict[str, frozenset[str]]:
    """The dtypes of the numbers that a fold writes in the region of each exit.

    A proof in float64 rounds nothing else there.
    """
    region, ops = _regions(solution), solution.graph.ops
    inside: dict[str, frozenset[str]] = {}
    for place, dtypes in solution.written.items():
        for root in {region(name) for name in ops[place].outputs}:
            inside[root] = inside.get(root, frozenset()) | dtypes
    exits = (name for names in regions_of(solution) for name in names)
    return {name: inside.get(region(name), frozenset()) for name in exits}


def passed_on(
    calls: Calls, changed: Collection[str], outputs: Collection[str]
) -> tuple[list[int], set[str]]:
    """The places of the calls from what changes to the outputs, and the values that they make."""
    moved = dependent(calls, changed)
    places, _ = between(calls, outputs, lambda name: name not in moved)
    makes = {name for place in places for name in calls[place].makes}
    return places, makes & moved


def not_apart(ops: Iterable[Op]) -> frozenset[str]:
    """The weights of attentions, back to their softmax.

    A proof may not put other numbers in their place: a map passes only because they sum to 1.
    """
    makers = {name: op for op in ops for name in op.outputs}
    found = set[str]()
    for op in makers.values():
        name = op.inputs[1] if isinstance(op.spec, Attended) and len(op.inputs) == 2 else None
        while name is not None and name in makers and name not in found:
            found.add(name)
            made = makers[name]
            name = None if "softmax" in made.kind.lower() else made.inputs[0]
    return frozenset(found)


def _regions(solution: Solution) -> Callable[[str], str]:
    """What gives all values of a region the same one of them."""
    altered, boundary = solution.plan.altered, solution.boundary
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            name = parents[name]
        return name

    for op in solution.graph.ops:
        own = [name for name in op.outputs if name in boundary]
        held = [n for n in (*op.inputs, *op.outputs) if n in altered]
        names = [*held, *own]
        for name in names[1:]:
            parents[root(name)] = root(names[0])
    return root


def dependent(
    calls: Sequence[Call], inputs: Collection[str], fixed: Collection[str] = ()
) -> set[str]:
    """The values that are not the same whatever the inputs are; `fixed` are known to be."""
    found = set(inputs)
    for call in calls:
        if not found.isdisjoint(call.reads):
            found.update(name for name in call.makes if name not in fixed)
    return found


def constants_of(solution: Solution) -> dict[str, Shape | None]:
    """The values whose numbers the plan rests on, and their sizes where these are known."""
    graph = solution.graph
    return {name: value.shape for name, value in graph.values.items() if graph.is_constant(name)}


def between(
    calls: Calls, exits: Collection[str], stops: Callable[[str], bool]
) -> tuple[list[int], list[str]]:
    """The places of the calls that make the exits, and the values at which the way back stops."""
    entries = dict[str, None]()
    places: list[int] = []
    waiting = [-place for place in {calls.makers[name] for name in exits if name in calls.makers}]
    heapq.heapify(waiting)
    seen = set(waiting)
    while waiting:  # the last call first: who reads a value comes before who makes it
        places.append(-heapq.heappop(waiting))
        for name in calls[places[-1]].reads:
            if stops(name):
                entries[name] = None
            elif name in calls.makers and (place := -calls.makers[name]) not in seen:
                seen.add(place)
                heapq.heappush(waiting, place)
    return places[::-1], list(entries)


def unmade(calls: Sequence[Call], places: Sequence[int], entries: Collection[str]) -> Iterator[str]:
    """What these calls read that none of them makes: stored numbers, and the program's inputs."""
    made = {name for place in places for name in calls[place].makes} | set(entries)
    seen = dict.fromkeys(name for place in places for name in calls[place].reads)
    return (name for name in seen if name not in made)
