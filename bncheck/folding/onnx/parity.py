"""An ONNX model and its fold, side by side: see folding/proof.py."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from bncheck.core.errors import REPORT_IT, BncheckError
from bncheck.core.words import shortened
from bncheck.folding.difference import Output, is_float
from bncheck.folding.onnx.altered import UNKNOWN, Altered
from bncheck.folding.onnx.cutting import Cuttable, moved, showing
from bncheck.folding.proof import Move, Seen, Values
from bncheck.folding.regions import dependent, not_apart, passed_on
from bncheck.folding.result import tolerance_for
from bncheck.folding.windows import Window, window_of
from bncheck.graph.dataflow import Op
from bncheck.graph.onnx.nodes import FLOATS, captured
from bncheck.reading.onnx_file import graphs_of
from bncheck.runtime.inputs import (
    Named,
    asked_sizes,
    free_axes,
    inputs_of,
    invented,
    sizes_of,
)
from bncheck.runtime.reference import in_float64, widened_by_reader
from bncheck.runtime.refused import RefusedError
from bncheck.runtime.running import Run, by_evaluator, by_onnxruntime, reporting, runner, said
from bncheck.runtime.sizes import Found, find
from bncheck.runtime.weights import Weights
from bncheck.subject.inputs import InputShape

_SEED = 20260

#: What the runtimes raise for a model that they cannot run.
FAILURES: tuple[type[Exception], ...] = (
    RuntimeError, NotImplementedError, ValueError, onnx.shape_inference.InferenceError,
)  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """A region that can be run, its own numbers, and whose values of the original it reads."""

    run: Run
    weights: Named
    sources: Mapping[str, str]


class ModelSides:
    """As written, they are run by onnxruntime where it is installed."""

    failures = FAILURES

    def __init__(
        self,
        original: onnx.ModelProto,
        folded: onnx.ModelProto,
        weights: Weights,
        altered: Altered,
        shapes: Sequence[InputShape] = (),
        sample: Named | None = None,
    ) -> None:
        self.examples: Sequence[Named] = ()
        self._all_dtypes = floating_dtypes(original)
        self._altered = altered
        self._weights = weights
        self._inputs = inputs_of(original, shapes, sample)
        # Samples of the user's tell all sizes but the batch, which is varied.
        self._asked = {
            **{n: size for n, size in altered.told.items() if n in free_axes(self._inputs)},
            **asked_sizes(self._inputs, shapes),
            **({} if sample is None else sizes_of(self._inputs, sample)),
        }
        self._judge: onnx.ModelProto | None = None
        self._open: tuple[str, Run] | None = None
        self._native = False
        self._parts: dict[tuple[int, bool], _Part] = {}
        self._outputs = len(original.graph.output)
        self._generator = np.random.default_rng(_SEED)
        self._original, self._new = Cuttable(original), Cuttable(folded)
        names = [given.name for given in self._inputs]
        self._changing = dependent(self._original.calls, names, altered.fixed)
        there = self._new.made
        compared = ([n for n in region if altered.twin(n) in there] for region in altered.regions)
        self.regions = [region for region in compared if region]
        self._last: tuple[Named, Sequence[Any]] | None = None

    def _run(self, which: str, model: onnx.ModelProto, inputs: Named) -> Sequence[Any]:
        """By the runtime, in which one model is open at a time: each takes twice its weights."""
        if self._open is None or self._open[0] != which:
            self._open = None
            self._open = which, self._opened(which, model)
        return self._open[1](inputs)

    def _opened(self, which: str, model: onnx.ModelProto) -> Run:
        """Raises BncheckError where onnxruntime takes the original and not the fold."""
        try:
            run = by_onnxruntime(model, self._weights)
        except Exception as error:
            if which == "fold" and self._native:
                raise BncheckError(
                    f"folds into a model that onnxruntime rejects ({shortened(said(error), 160)})",
                    f"{REPORT_IT}; nothing was written",
                ) from None
            return by_evaluator(model, self._weights)
        self._native = True
        return run

    def judge_by(self, model: onnx.ModelProto) -> None:
        """Let the outputs of this model be those of the original."""
        self._judge = model

    @cached_property
    def tolerance(self) -> float:
        """Of the dtypes between what is altered and the outputs; of all where one is not known."""
        altered, graph = self._altered, self._original.model.graph
        ends = {name for region in self.regions for name in region}
        outputs = [output.name for output in graph.output]
        places, names = passed_on(self._original.calls, altered.values | ends, outputs)
        dtypes = {altered.dtypes[name] for name in names if name in altered.dtypes}
        dtypes.update(*altered.written.values())
        attributes = (a for place in places for a in graph.node[place].attribute)
        inner = any(a.HasField("g") or a.graphs for a in attributes)
        return tolerance_for(
            self._all_dtypes if inner or UNKNOWN in dtypes or not dtypes else dtypes
        )

    def written(self, region: int) -> Collection[str]:
        """The dtypes of its new numbers; all of the model where a region is a graph in a node."""
        found = {d for name in self.regions[region] for d in self._altered.written.get(name, ())}
        return found or self._all_dtypes

    @cached_property
    def _entries(self) -> list[list[str]]:
        return [self._original.entries(region, self._stops) for region in self.regions]

    def entries(self, region: int) -> Sequence[str]:
        """What a region reads."""
        return self._entries[region]

    def _stops(self, name: str) -> bool:
        inside = self._altered.values | self._not_apart
        return name in self._changing and name not in inside

    @cached_property
    def _not_apart(self) -> frozenset[str]:
        return not_apart(self._altered.ops)

    @cached_property
    def _watched(self) -> list[str]:
        """What regions read, beside the inputs and outputs."""
        names = [name for entries in self._entries for name in entries]
        known = {given.name for given in self._inputs}
        known.update(output.name for output in self._original.model.graph.output)
        return [name for name in dict.fromkeys(names) if name not in known]

    def _watching(self, inputs: Named) -> Sequence[Any]:
        with showing(self._original.model, self._watched) as model:
            results = self._run("watched", model, inputs)
        self._last = inputs, results
        return results

    @cached_property
    def _found(self) -> Found | RefusedError:
        try:
            return find(self._inputs, self._asked, self._watching)
        except RefusedError as error:
            return error

    @property
    def has_free_batch(self) -> bool:
        """Whether it takes any number of samples."""
        return isinstance(self._found, Found) and self._found.free_batch

    def fresh(self, batch: int) -> Named:
        """Random inputs. Raises RefusedError where no sizes are found."""
        if isinstance(self._found, RefusedError):
            raise self._found
        sizes = self._found.of_batch(self._inputs, batch)
        if self._last is not None and sizes == self._found.sizes:
            return self._last[0]  # the inputs with which these sizes were found
        return invented(self._inputs, sizes, self._generator)

    def batch_of(self, inputs: Named) -> int:
        """The size of the first axis."""
        return batch_of(inputs)

    def original(self, inputs: Named) -> Seen:
        """The original as written. Raises RefusedError."""
        try:
            results = self._taken(inputs)
            own = (
                results[: self._outputs]
                if self._judge is None
                else self._run("judge", self._judge, inputs)
            )
        except (RuntimeError, ValueError) as error:
            if isinstance(error, NotImplementedError):
                raise
            raise RefusedError(str(error)) from None
        outputs = [output.name for output in self._original.model.graph.output]
        named = dict(zip([*outputs, *self._watched], results, strict=True))
        return Seen(_floats(own), {**inputs, **named})

    def _taken(self, inputs: Named) -> Sequence[Any]:
        """What the original makes of the inputs, once for each."""
        last, self._last = self._last, None
        if last is not None and last[0] is inputs:
            return last[1]
        results = self._watching(inputs)
        self._last = None
        return results

    def moved(self, inputs: Named) -> Iterator[Sequence[Output]]:
        """The original with all values in and around regions off by a unit in the last place."""
        inner = self._altered.values & self._original.made & self._changing
        ends = (name for region in self.regions for name in region)
        read = (name for entries in self._entries for name in entries)
        stored = filter(self._original.has, self._altered.numbers)
        names = sorted({*read, *ends, *inner, *stored})  # each draw is the same in every run
        dtypes = {name: self._altered.dtypes.get(name, "") for name in names}
        known = {name: dtype for name, dtype in dtypes.items() if dtype in FLOATS.values()}
        self._open = None
        run = runner(moved(self._original.model, known), self._weights)
        while True:
            yield _floats(run(inputs))

    def folded(self, inputs: Named) -> Sequence[Output]:
        """The fold as written."""
        return _floats(self._run("fold", self._new.model, inputs))

    def enough(self, region: int, values: Values) -> Values:
        """What a region reads, and no more of it than shows what it does."""
        read = {name: values[name] for name in self._entries[region]}
        window = self._window(region, read) if all(map(is_float, read.values())) else None
        if window is None:
            return values
        return {**values, **{name: window.of(value) for name, value in read.items()}}

    @cached_property
    def _ops(self) -> Mapping[str, Op]:
        """Which call makes a value."""
        return {name: op for op in self._altered.ops for name in op.outputs}

    def _window(self, region: int, read: Values) -> Window | None:
        """How much of what a region reads shows what it does."""
        varying, calls = set(read), list[Op | None]()
        for node in self._original.nodes(self.regions[region], self._stops):
            if not varying.isdisjoint((*node.input, *captured(node))):
                made = [name for name in node.output if name]
                varying.update(made)
                calls.append(next(map(self._ops.get, made), None))
        sizes = {name: value.shape for name, value in read.items()}
        return window_of(calls, sizes, self._altered.fixed)

    def exits(
        self, region: int, values: Values, *, of_fold: bool, move: Move | None = None
    ) -> Mapping[str, Output]:
        """What a region makes of these values, in float64."""
        part = self._part(region, of_fold)
        given = {name: _widened(values[source]) for name, source in part.sources.items()}
        floats = {n: move(v) for n, v in part.weights.items() if move and is_float(v)}
        pairs = zip(
            self.regions[region], part.run({**part.weights, **floats, **given}), strict=True
        )
        return {name: value for name, value in pairs if is_float(value)}

    def _part(self, region: int, of_fold: bool) -> _Part:
        """A region in float64; those of the last one are kept."""
        if (region, of_fold) not in self._parts:
            names = self.regions[region]
            twins = {self._altered.twin(name): name for name in self._entries[region]}
            if of_fold:
                ends = list(map(self._altered.twin, names))
                model, given, stored = self._new.part(ends, twins.__contains__)
            else:
                model, given, stored = self._original.part(names, self._stops)
            as_they_are = widened_by_reader(model)
            numbers = {tensor.name: self._weights.numbers(tensor) for tensor in stored}
            weights = {n: v if n in as_they_are else _widened(v) for n, v in numbers.items()}
            sources = {name: twins.get(name, name) if of_fold else name for name in given}
            kept = {key: found for key, found in self._parts.items() if key[0] == region}
            part = _Part(reporting(in_float64(model)), weights, sources)
            self._parts = kept | {(region, of_fold): part}
        return self._parts[region, of_fold]

    def maker_of(self, name: str | None) -> str | None:
        """The node that makes a value."""
        nodes = self._original.model.graph.node
        found = next((node for node in nodes if name in node.output), None)
        return name if found is None else found.name or name


def batch_of(inputs: Named) -> int:
    """How many samples these inputs hold."""
    first = next(iter(inputs.values()), np.zeros(0))
    return int(first.shape[0]) if first.ndim else 0


def _floats(results: Iterable[Any]) -> list[Output]:
    return [result for result in results if is_float(result)]


def _widened(value: Any) -> Any:
    return value.astype(np.float64) if is_float(value) else value


def default_tolerance(model: onnx.ModelProto) -> float:
    """By the narrowest floating dtype of weights, inputs and casts."""
    return tolerance_for(floating_dtypes(model))


def floating_dtypes(model: onnx.ModelProto) -> set[str]:
    """Those of weights, inputs and casts."""
    kinds = {tensor.data_type for graph in graphs_of(model.graph) for tensor in graph.initializer}
    kinds |= {info.type.tensor_type.elem_type for info in model.graph.input}
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    kinds |= {a.i for node in nodes if node.op_type == "Cast" for a in node.attribute}
    return {FLOATS[kind] for kind in kinds if kind in FLOATS}
