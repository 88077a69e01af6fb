"""Which normalisation goes where, and why not: a pure function from a graph to a plan.

Each normalisation with fixed statistics is an affine map. It is pulled backwards into the calls
that made its input, or pushed forwards into the calls that read its output. Every step leaves the
function that the graph computes as it was, so steps can follow one another in any number.

All or nothing: a map that cannot be absorbed whole, on every path, stays where it is.
"""

from __future__ import annotations

import fnmatch
import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from bncheck.folding.algebra import Affine, identity, norm_affine
from bncheck.folding.commute import (
    Stuck,
    collapsed,
    fitted,
    merged,
    pull,
    push,
    settled,
)
from bncheck.folding.dataflow import (
    Add,
    Conv,
    ConvTranspose,
    Enclosed,
    Graph,
    Linear,
    Mul,
    Norm,
    Op,
    Shape,
    Use,
)

#: Where several additions lie between, so many ways of sharing the shift among them are tried.
_MAX_ATTEMPTS = 30


class Status(str, Enum):
    """What becomes of a normalisation."""

    FOLDED = "folded"
    MERGED = "merged"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one normalisation call: into which calls, through which, or why not."""

    name: str
    op: str
    status: Status
    into: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""
    overflow: bool = False

    def to_dict(self) -> dict[str, object]:
        """The decision as plain data."""
        return {
            "name": self.name,
            "op": self.op,
            "status": self.status.value,
            "into": ", ".join(self.into) or None,
            "through": list(self.through),
            "reason": ". ".join(part for part in (self.reason, self.hint) if part) or None,
        }


@dataclass(frozen=True, slots=True)
class Fold:
    """Maps that a call absorbs: one on its input channels, one on its output channels.

    `as_shuffle`: it becomes a 1 x 1 convolution and a pixel shuffle (algebra.tiling_as_conv).
    """

    before: Affine | None = None
    after: Affine | None = None
    as_shuffle: bool = False


@dataclass(frozen=True)
class Plan:
    """What to change in a graph; keys are places in `graph.ops`.

    `altered` are the values that are not what they were: those between a normalisation and where
    it went. `targets` are the calls that each normalisation, by name, went into.
    """

    decisions: tuple[Decision, ...] = ()
    folds: Mapping[int, Fold] = field(default_factory=dict)
    constants: Mapping[tuple[int, int], Affine] = field(default_factory=dict)
    bypassed: frozenset[int] = frozenset()
    altered: frozenset[str] = frozenset()
    targets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A normalisation, or a multiplication and an addition that are one: calls and their name."""

    name: str
    kind: str
    ops: tuple[int, ...]

    @property
    def first(self) -> int:
        """The call that reads its input."""
        return self.ops[0]

    @property
    def last(self) -> int:
        """The call that makes its output."""
        return self.ops[-1]


@dataclass
class _Step:
    """What one successful move changes."""

    folds: dict[int, Fold] = field(default_factory=dict)
    constants: dict[tuple[int, int], Affine] = field(default_factory=dict)
    bypassed: set[int] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    into: list[int] = field(default_factory=list)
    through: list[int] = field(default_factory=list)
    additions: list[int] = field(default_factory=list)
    pair: tuple[str | None, str | None] = (None, None)  # a pushed norm's input and output


def plan(
    graph: Graph,
    keep: Sequence[str] = (),
    forbidden: Mapping[str, str] | None = None,
) -> Plan:
    """Decide about every normalisation of the graph.

    `keep` are patterns of names to leave alone; `forbidden` maps names to the reason why a fold
    that would be exact on paper is none (its numbers do not fit their dtype).
    """
    return _Planner(graph, keep, forbidden or {}).run()


class _Planner:
    def __init__(self, graph: Graph, keep: Sequence[str], forbidden: Mapping[str, str]) -> None:
        self.graph = graph
        self.keep = keep
        self.forbidden = forbidden
        self.folds: dict[int, Fold] = {}
        self.constants: dict[tuple[int, int], Affine] = {}
        self.bypassed: set[int] = set()
        self.altered: set[str] = set()
        self.decisions: dict[int, Decision] = {}
        self.merged_into: dict[int, int] = {}
        self.dissolved: dict[int, int] = {}
        self.targets: dict[str, tuple[int, ...]] = {}
        self.units: set[int] = set()  # calls that together are one normalisation
        self.held: set[int] = set()  # calls that belong to a normalisation that must stay

    def run(self) -> Plan:
        candidates = list(find_candidates(self.graph))
        self.units.update(i for c in candidates if len(c.ops) > 1 for i in c.ops)
        waiting = []
        for candidate in candidates:
            reason = self._never(candidate)
            if reason:
                self.held.update(candidate.ops)
                self.decisions[candidate.last] = reason
            else:
                waiting.append(candidate)
        progress = True
        while progress and waiting:
            before = len(waiting)
            # Linear calls first: two normalisations are only merged where neither can go.
            for into_norms in (False, True):
                waiting = [c for c in waiting if not self._move(c, into_norms)]
            progress = len(waiting) < before
        return Plan(
            (*(self._final(c) for c in candidates), *map(_enclosed, self.graph.enclosed)),
            self.folds,
            self.constants,
            frozenset(self.bypassed),
            frozenset(self.altered),
            self.targets,
        )

    def _never(self, candidate: Candidate) -> Decision | None:
        kept = Decision(candidate.name, candidate.kind, Status.KEPT)
        if any(fnmatch.fnmatchcase(candidate.name, pattern) for pattern in self.keep):
            return replace(kept, reason="--keep asks for it")
        if candidate.name in self.forbidden:
            return replace(kept, reason=self.forbidden[candidate.name], overflow=True)
        try:
            affine_of(self.graph, candidate)
        except Stuck as stuck:
            return replace(kept, reason=stuck.reason, hint=stuck.hint)
        return None

    def _move(self, candidate: Candidate, into_norms: bool) -> bool:
        if set(candidate.ops) <= self.bypassed:  # it lay on the way of another one
            return True
        try:
            affine = self._affine(candidate)
        except Stuck as stuck:
            self._keep(candidate, stuck)
            return False
        reasons = []
        for attempt in (self._pull, self._push):
            try:
                step = attempt(candidate, affine, into_norms)
            except Stuck as stuck:
                reasons.append(stuck)
                continue
            self._accept(candidate, step)
            return True
        residual = self._residual(candidate, affine, into_norms)
        if residual is not None:
            self._accept(candidate, residual)
            return True
        self._keep(candidate, *reasons)
        return False

    def _affine(self, candidate: Candidate) -> Affine:
        """The candidate's own map, between those that it has taken over from others."""
        affine = affine_of(self.graph, candidate)
        fold = self.folds.get(candidate.last, Fold())
        if fold.before:
            affine = affine.after(_on_channels(fold.before, affine.scale.ndim))
        if fold.after:
            affine = _on_channels(fold.after, affine.scale.ndim).after(affine)
        return affine

    def _keep(self, candidate: Candidate, *stuck: Stuck) -> None:
        reason = "; ".join(
            f"{side}: {s.reason}" if len(stuck) > 1 else s.reason
            for side, s in zip(("backwards", "forwards"), stuck, strict=False)
        )
        hint = next((s.hint for s in stuck if s.hint), "")
        decision = Decision(candidate.name, candidate.kind, Status.KEPT, reason=reason, hint=hint)
        self.decisions[candidate.last] = decision

    def _accept(self, candidate: Candidate, step: _Step) -> None:
        for index, fold in step.folds.items():
            self.folds[index] = fold
        self.constants.update(step.constants)
        self.bypassed |= step.bypassed | set(candidate.ops)
        self.altered |= step.altered
        self.folds.pop(candidate.last, None)
        ops = self.graph.ops
        into = list(dict.fromkeys(step.into))
        self.targets[candidate.name] = tuple(into)
        self.dissolved.update(dict.fromkeys(step.bypassed, candidate.last))
        norms = [index for index in into if isinstance(ops[index].spec, Norm)]
        if norms:
            self.merged_into[candidate.last] = norms[0]
        self.decisions[candidate.last] = Decision(
            candidate.name,
            candidate.kind,
            Status.MERGED if norms else Status.FOLDED,
            tuple(ops[index].label for index in into),
            tuple(dict.fromkeys(ops[index].kind for index in step.through)),
        )

    def _final(self, candidate: Candidate) -> Decision:
        """The decision; what was merged into a normalisation that was folded is folded, too."""
        decision = self.decisions.get(candidate.last)
        if candidate.last in self.dissolved:
            other = self.decisions[self.dissolved[candidate.last]]
            return replace(other, name=candidate.name, op=candidate.kind, through=())
        assert decision is not None
        place, through = candidate.last, list(decision.through)
        while place in self.merged_into:
            place = self.merged_into[place]
            target = self.decisions.get(place)
            if target is None or target.status is Status.KEPT:
                return decision
            through += [target.name, *target.through]
            decision = replace(
                decision, status=target.status, into=target.into, through=tuple(through)
            )
        return decision

    # Backwards -----------------------------------------------------------------------------

    def _pull(self, candidate: Candidate, affine: Affine, into_norms: bool) -> _Step:
        """The first way of sharing shifts among additions that works; else the first failure."""
        failure: Stuck | None = None
        seen: list[int] = []
        for choices in self._choices(seen):
            step = _Step()
            try:
                self._pull_once(candidate, affine, into_norms, choices, step)
            except Stuck as stuck:
                failure = failure or stuck
                seen[:] = seen or step.additions
                continue
            return step
        assert failure is not None
        raise failure

    def _residual(self, candidate: Candidate, affine: Affine, into_norms: bool) -> _Step | None:
        """v + norm(v) with nothing else between is 2 ((1 + a) / 2 v + t / 2): pull that into v."""
        source = self.graph.ops[candidate.first].inputs[0]
        output = self.graph.ops[candidate.last].outputs[0]
        readers = self.graph.uses.get(output, [])
        if len(readers) != 1 or output in self.graph.outputs:
            return None
        add = self.graph.ops[readers[0].op]
        slot = 1 - readers[0].slot
        if not isinstance(add.spec, Add) or add.spec.signs != (1.0, 1.0):
            return None
        if readers[0].op in self.bypassed or add.inputs[slot] != source:
            return None
        half = Affine((1.0 + affine.scale) / 2.0, affine.shift / 2.0)
        step = _Step()
        try:
            beside = Use(readers[0].op, slot)
            self._pull_once(candidate, half, into_norms, {}, step, beside)
        except Stuck:
            return None
        return step

    @staticmethod
    def _choices(seen: list[int]) -> Iterator[dict[int, int]]:
        yield {}
        tried = itertools.product(range(3), repeat=min(len(seen), 3))
        for combination in itertools.islice(tried, 1, _MAX_ATTEMPTS):
            yield dict(zip(seen, combination, strict=False))

    def _pull_once(
        self,
        candidate: Candidate,
        affine: Affine,
        into_norms: bool,
        choices: Mapping[int, int],
        step: _Step,
        beside: Use | None = None,
    ) -> None:
        source = self.graph.ops[candidate.first].inputs[0]
        assert source is not None
        wanted: dict[str, dict[Use, Affine]] = {}
        heap: list[int] = []

        def want(value: str, use: Use, map_: Affine) -> None:
            producer = self.graph.producers.get(value)
            if producer is None:
                raise Stuck("its input is an input of the model")
            wanted.setdefault(value, {})[use] = map_
            heapq.heappush(heap, -producer)

        self._same_dtype(candidate)
        want(source, Use(candidate.first, 0), affine)
        if beside is not None:
            want(source, beside, affine)
        done = -1
        while heap:
            index = -heapq.heappop(heap)
            if index == done:
                continue
            done = index
            op = self.graph.ops[index]
            maps = [self._agreed(name, wanted.get(name)) for name in op.outputs]
            for slot, map_ in self._inputs(index, op, maps, into_norms, choices, step):
                name = op.inputs[slot]
                assert name is not None
                want(name, Use(index, slot), map_)
            step.altered.update(op.outputs)
        step.altered.add(self.graph.ops[candidate.last].outputs[0])

    def _agreed(self, name: str, wishes: Mapping[Use, Affine] | None) -> Affine:
        """What all readers of a value want of it; readers that are not asked want no change."""
        uses = self.graph.uses.get(name, [])
        shape = self.graph.shape(name)
        if shape is None:
            raise Stuck("the rank of its input is not known")
        nothing = np.full((1,) * len(shape), np.nan)
        result = Affine(nothing, nothing)
        unchanged = identity(len(shape))
        wishes = wishes or {}
        for map_ in wishes.values():
            both = merged(result, map_)
            if both is None:
                raise Stuck(f"the paths that meet at {name} want different scales of it")
            result = both
        if name in self.graph.outputs:
            both = merged(result, unchanged)
            if both is None:
                raise Stuck("its input is also an output of the model")
            result = both
        for use in uses:
            if use not in wishes:
                both = merged(result, unchanged)
                if both is None:
                    other = self.graph.ops[use.op]
                    raise Stuck(f"its input is also used by {other.label} ({other.kind})")
                result = both
        return result

    def _inputs(
        self,
        index: int,
        op: Op,
        maps: list[Affine],
        into_norms: bool,
        choices: Mapping[int, int],
        step: _Step,
    ) -> list[tuple[int, Affine]]:
        """Absorb the maps of an operation's outputs, or say what its inputs must take."""
        spec = op.spec
        if index in self.bypassed:
            return [(self._data_slot(op), maps[0])]
        if isinstance(spec, (Conv, ConvTranspose, Linear)):
            axis = -1 if isinstance(spec, Linear) else 1
            self._absorb_after(index, op, maps[0], axis, step)
            return []
        if isinstance(spec, Norm):
            if not into_norms or index in self.held or spec.uses_batch:
                raise Stuck(f"it follows {op.label}, which is itself a normalisation that stays")
            self._absorb_after(index, op, maps[0], 1, step)
            return []
        step.through.append(index)
        if isinstance(spec, (Add, Mul)):
            return self._elementwise(index, op, maps[0], choices, step)
        pulled = pull(self.graph, op, maps)
        for slot, map_ in enumerate(pulled):
            if self.graph.is_constant(op.inputs[slot]):
                step.constants[index, slot] = self._constant_edit(index, slot, settled(map_))
        return [
            (slot, map_)
            for slot, map_ in enumerate(pulled)
            if not self.graph.is_constant(op.inputs[slot])
        ]

    def _absorb_after(self, index: int, op: Op, map_: Affine, axis: int, step: _Step) -> None:
        self._fixed(op)
        vector = _channel_map(self.graph, op, op.outputs[0], settled(map_), axis)
        fold = self.folds.get(index, Fold())
        after = vector.after(fold.after) if fold.after else vector
        step.folds[index] = replace(fold, after=after)
        step.into.append(index)

    def _elementwise(
        self, index: int, op: Op, map_: Affine, choices: Mapping[int, int], step: _Step
    ) -> list[tuple[int, Affine]]:
        fixed = [self.graph.is_constant(name) for name in op.inputs[:2]]
        whole = isinstance(op.spec, Mul) or index in self.units
        if whole or (any(fixed) and choices.get(index, 0) == 0):
            own = self._own_map(index, op)
            if own is not None and self._commutes(index, op, map_):
                return [(own[0], map_)]
            if own is not None:
                step.additions.append(index)
                step.bypassed.add(index)
                return [(own[0], map_.after(own[1]))]
        if whole:
            raise Stuck(f"{op.label} ({op.kind}) lies between, a product of two activations")
        return self._sum(index, op, map_, choices, step)

    def _commutes(self, index: int, op: Op, map_: Affine) -> bool:
        """A scale without a shift passes x * c as it is, so that c may differ by position."""
        return isinstance(op.spec, Mul) and index not in self.units and not map_.shifts

    def _own_map(self, index: int, op: Op) -> tuple[int, Affine] | None:
        """x + c, x * c, c - x, x / c as a map of x, in the operand's place; else None."""
        if index in self.held:
            raise Stuck(f"it follows {op.label}, which is itself a normalisation that stays")
        found = elementwise_map(self.graph, op)
        edited = any((index, slot) in self.constants for slot in (0, 1))
        return None if found is None or edited else found

    def _sum(
        self, index: int, op: Op, map_: Affine, choices: Mapping[int, int], step: _Step
    ) -> list[tuple[int, Affine]]:
        """a (x + y) + t = (a x + t1) + (a y + t2), t1 + t2 = t."""
        assert isinstance(op.spec, Add)
        step.additions.append(index)
        fixed = [self.graph.is_constant(name) for name in op.inputs]
        shares = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)][choices.get(index, 0)]
        if op.inputs[0] == op.inputs[1] and op.spec.signs == (1.0, 1.0):
            shares = (0.5, 0.5)
        if any(fixed):  # choice 0 dissolves the addition
            shares = (0.0, 1.0) if fixed[0] == (choices.get(index, 0) < 2) else (1.0, 0.0)
        out = self.graph.shape(op.outputs[0])
        wishes = []
        for slot, (share, sign) in enumerate(zip(shares, op.spec.signs, strict=True)):
            shape = self.graph.shape(op.inputs[slot])
            if shape is None or out is None:
                raise Stuck("the shapes around it are not known")
            shift = map_.shift * (share * sign)
            part = Affine(fitted(map_.scale, shape, out), fitted(shift, shape, out))
            if fixed[slot]:
                whole = Affine(map_.scale, shift)
                step.constants[index, slot] = self._constant_edit(index, slot, settled(whole))
            else:
                wishes.append((slot, part))
        return wishes

    def _constant_edit(self, index: int, slot: int, map_: Affine) -> Affine:
        before = self.constants.get((index, slot))
        return map_.after(before) if before else map_

    # Forwards ------------------------------------------------------------------------------

    def _push(self, candidate: Candidate, affine: Affine, into_norms: bool) -> _Step:
        self._same_dtype(candidate)
        output = self.graph.ops[candidate.last].outputs[0]
        step = _Step(pair=(self.graph.ops[candidate.first].inputs[0], output))
        carried: dict[str, Affine] = {output: affine}
        heap = self._readers(output)
        if not heap:
            raise Stuck("nothing reads it")
        done = -1
        while heap:
            index = heapq.heappop(heap)
            if index == done:
                continue
            done = index
            op = self.graph.ops[index]
            given = {s: carried[n] for s, n in enumerate(op.inputs) if n in carried}
            for name, map_ in self._results(index, op, given, into_norms, step):
                carried[name] = map_
                for reader in self._readers(name):
                    heapq.heappush(heap, reader)
        step.altered.update(carried)
        return step

    def _readers(self, name: str) -> list[int]:
        if name in self.graph.outputs:
            raise Stuck("its result is an output of the model")
        return sorted({use.op for use in self.graph.uses.get(name, [])})

    def _results(
        self, index: int, op: Op, given: dict[int, Affine], into_norms: bool, step: _Step
    ) -> list[tuple[str, Affine]]:
        spec = op.spec
        if index in self.bypassed:
            return [(op.outputs[0], given[self._data_slot(op)])]
        if isinstance(spec, (Conv, ConvTranspose, Linear, Norm)):
            self._absorb_before(index, op, given, into_norms, step)
            return []
        step.through.append(index)
        if isinstance(spec, (Add, Mul)):
            return [(op.outputs[0], self._push_elementwise(index, op, given, step))]
        # The mask of an idle Dropout is an output that no map reaches.
        return list(zip(op.outputs, push(self.graph, op, given), strict=False))

    def _absorb_before(
        self, index: int, op: Op, given: dict[int, Affine], into_norms: bool, step: _Step
    ) -> None:
        spec = op.spec
        if set(given) != {0}:
            raise Stuck(f"it is a weight of {op.label} ({op.kind})")
        if isinstance(spec, Norm) and (not into_norms or index in self.held or spec.uses_batch):
            raise Stuck(f"{op.label} follows, itself a normalisation that stays")
        self._fixed(op)
        axis = -1 if isinstance(spec, Linear) else 1
        vector = _channel_map(self.graph, op, op.inputs[0], given[0], axis)
        fold = self.folds.get(index, Fold())
        before = fold.before.after(vector) if fold.before else vector
        shuffles = fold.as_shuffle
        if before.shifts:
            shuffles |= _check_shift(op)
        step.folds[index] = replace(fold, before=before, as_shuffle=shuffles)
        step.into.append(index)

    def _push_elementwise(
        self, index: int, op: Op, given: dict[int, Affine], step: _Step
    ) -> Affine:
        own = self._own_map(index, op)
        if own is not None and self._commutes(index, op, given[own[0]]):
            return given[own[0]]
        if own is not None:
            step.bypassed.add(index)
            return own[1].after(given[own[0]])
        if isinstance(op.spec, Mul):
            raise Stuck(f"{op.label} ({op.kind}) multiplies it with another activation")
        assert isinstance(op.spec, Add)
        if set(op.inputs) == set(step.pair) and op.spec.signs == (1.0, 1.0):
            (map_,) = given.values()  # x + (a x + t) = (1 + a) / 2 (x + x) + t
            return Affine((1.0 + map_.scale) / 2.0, map_.shift)
        return self._push_sum(op, given)

    def _push_sum(self, op: Op, given: dict[int, Affine]) -> Affine:
        assert isinstance(op.spec, Add)
        out = self.graph.shape(op.outputs[0])
        shapes = [self.graph.shape(name) for name in op.inputs]
        if out is None or any(shape != out for shape in shapes):
            raise Stuck(f"{op.label} ({op.kind}) broadcasts it")
        one = identity(len(out))
        maps = [given.get(slot, one) for slot in (0, 1)]
        scales = merged(Affine(maps[0].scale, one.shift), Affine(maps[1].scale, one.shift))
        if scales is None:
            raise Stuck(
                f"{op.label} ({op.kind}) adds it to an activation that has not the same scale"
            )
        signs = op.spec.signs
        return Affine(maps[0].scale, signs[0] * maps[0].shift + signs[1] * maps[1].shift)

    # Both ----------------------------------------------------------------------------------

    def _fixed(self, op: Op) -> None:
        for slot in (1, 2):
            name = op.input(slot)
            if name is not None and not self.graph.is_constant(name):
                role = "weight" if slot == 1 else "bias"
                raise Stuck(f"the {role} of {op.label} ({op.kind}) is computed from the input")

    def _data_slot(self, op: Op) -> int:
        """Where a bypassed call, a normalisation or x + c or x * c, has its x."""
        return 1 if self.graph.is_constant(op.inputs[0]) else 0

    def _same_dtype(self, candidate: Candidate) -> None:
        source = self.graph.ops[candidate.first].inputs[0]
        target = self.graph.ops[candidate.last].outputs[0]
        assert source is not None
        before, after = self.graph.values[source].dtype, self.graph.values[target].dtype
        if before != after:
            raise Stuck(f"it turns {before} into {after}")


def _enclosed(norm: Enclosed) -> Decision:
    return Decision(
        norm.name,
        norm.kind,
        Status.KEPT,
        reason=f"it lies inside {norm.where}, whose graphs are left as they are",
        hint="take it out of the branch or context to let it be folded",
    )


def find_candidates(graph: Graph) -> Iterator[Candidate]:
    """Normalisations, and multiplications followed by an addition, both by constants per channel.

    The latter is what FrozenBatchNorm computes.
    """
    taken: dict[str, int] = {}
    for index, op in enumerate(graph.ops):
        ops: tuple[int, ...] = ()
        if isinstance(op.spec, Norm):
            ops = (index,)
        elif isinstance(op.spec, Mul) and _is_per_channel(graph, op):
            uses = graph.uses.get(op.outputs[0], [])
            follower = graph.ops[uses[0].op] if len(uses) == 1 else op
            alone = len(uses) == 1 and op.outputs[0] not in graph.outputs
            if alone and isinstance(follower.spec, Add) and _is_per_channel(graph, follower):
                ops = (index, uses[0].op)
        if ops:
            label = graph.ops[ops[-1]].label
            taken[label] = taken.get(label, 0) + 1
            name = label if taken[label] == 1 else f"{label} ({taken[label]})"
            yield Candidate(name, op.kind if len(ops) == 1 else "mul+add", ops)


def _is_per_channel(graph: Graph, op: Op) -> bool:
    found = elementwise_map(graph, op)
    shape = graph.shape(op.outputs[0])
    if found is None or shape is None or len(shape) < 2:
        return False
    sizes = found[1].after(identity(len(shape))).scale.shape, found[1].shift.shape
    wide = {axis for size in sizes for axis, n in enumerate(size) if n > 1}
    return wide == {1}


def elementwise_map(graph: Graph, op: Op) -> tuple[int, Affine] | None:
    """x + c, x * c, c - x, x / c with a constant c, as the slot of x and a map of it."""
    fixed = [graph.is_constant(name) for name in op.inputs[:2]]
    if not isinstance(op.spec, (Add, Mul)) or len(fixed) != 2 or sum(fixed) != 1:
        return None
    slot = fixed.index(False)
    shape, out = graph.shape(op.inputs[slot]), graph.shape(op.outputs[0])
    number = graph.constant(op.inputs[1 - slot])
    name, result = op.inputs[slot], op.outputs[0]
    assert name is not None
    if shape is None or shape != out or number is None or number.ndim > len(shape):
        return None
    if graph.values[name].dtype != graph.values[result].dtype:
        return None
    number = number.reshape((1,) * (len(shape) - number.ndim) + number.shape)
    one = identity(len(shape))
    if isinstance(op.spec, Add):
        signs = op.spec.signs
        return slot, Affine(one.scale * signs[slot], number * signs[1 - slot])
    if op.spec.divides and slot == 1:
        return None
    with np.errstate(divide="ignore"):
        scale = 1.0 / number if op.spec.divides else number
    return (slot, Affine(scale, one.shift)) if np.all(np.isfinite(scale)) else None


def affine_of(graph: Graph, candidate: Candidate) -> Affine:
    """The map of a normalisation, with its channels on axis 1; Stuck where it has none."""
    op = graph.ops[candidate.first]
    if not isinstance(op.spec, Norm):
        maps = [elementwise_map(graph, graph.ops[index]) for index in candidate.ops]
        assert maps[0] is not None
        assert maps[1] is not None
        return maps[1][1].after(maps[0][1])
    if op.spec.uses_batch:
        raise Stuck(op.spec.why)
    shape = graph.shape(op.inputs[0])
    if shape is None or len(shape) < 2:
        raise Stuck("the rank of its input is not known")
    given = [graph.constant(op.input(slot)) for slot in (1, 2, 3, 4)]
    for slot, role in enumerate(("weight", "bias", "running mean", "running variance"), 1):
        if op.input(slot) is not None and given[slot - 1] is None:
            raise Stuck(f"its {role} is computed from the input")
    gamma, beta, mean, var = given
    assert mean is not None
    assert var is not None
    if not (np.all(np.isfinite(var)) and np.all(var >= 0) and np.all(np.isfinite(mean))):
        raise Stuck(
            "its running statistics hold a NaN, an infinity or a negative variance",
            "see `bncheck inspect`",
        )
    scale, shift = norm_affine(gamma, beta, mean, var, op.spec.eps)
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        raise Stuck("its scale or shift is not a finite number", "see `bncheck inspect`")
    sizes = (1, -1, *(1,) * (len(shape) - 2))
    return Affine(scale.reshape(sizes), shift.reshape(sizes))


def _on_channels(vectors: Affine, rank: int) -> Affine:
    """What a call has absorbed, one number a channel, as a map of a value of that rank."""
    sizes = (1, -1, *(1,) * (rank - 2))
    return Affine(vectors.scale.reshape(sizes), vectors.shift.reshape(sizes))


def _channel_map(graph: Graph, op: Op, name: str | None, map_: Affine, axis: int) -> Affine:
    """A map that differs along one axis only, as two vectors of that axis' size."""
    shape: Shape | None = graph.shape(name)
    if shape is None:
        raise Stuck("the shapes around it are not known")
    axis %= len(shape)
    others = [i for i in range(len(shape)) if i != axis]
    what = "features" if isinstance(op.spec, Linear) else "channels"
    small = collapsed(
        map_, others, f"its numbers do not lie on the {what} of {op.label} ({op.kind})"
    )
    size = shape[axis]
    if not isinstance(size, int):
        raise Stuck(f"the number of {what} of {op.label} ({op.kind}) is not known")
    return Affine(
        np.broadcast_to(small.scale.reshape(-1), (size,)),
        np.broadcast_to(small.shift.reshape(-1), (size,)),
    )


def _check_shift(op: Op) -> bool:
    """Whether a shift before this call needs it to become a convolution and a pixel shuffle."""
    spec = op.spec
    if isinstance(spec, Conv) and spec.pads_with_zeros:
        raise Stuck(
            f"{op.label} ({op.kind}) pads with zeros, which its shift does not reach",
            "no padding, or padding_mode='reflect', would let it be folded",
        )
    if isinstance(spec, ConvTranspose):
        if not spec.tiles:
            raise Stuck(
                f"the windows of {op.label} ({op.kind}) overlap or are cut, so its shift would "
                "not reach every output alike"
            )
        if all(step == 1 for step in spec.stride):
            return False
        if len(spec.stride) != 2 or len(set(spec.stride)) != 1:
            raise Stuck(
                f"each place within the stride of {op.label} ({op.kind}) would need its own bias"
            )
        return True
    return False
