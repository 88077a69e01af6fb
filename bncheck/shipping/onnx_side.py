"""An ONNX model as a side of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bncheck.core.errors import BncheckError
from bncheck.core.words import shortened
from bncheck.folding.onnx.parity import FAILURES, default_tolerance
from bncheck.reading.onnx_file import graphs_of
from bncheck.runtime.file import user_inputs
from bncheck.runtime.inputs import asked_sizes, batch_axes, free_axes, inputs_of, sizes_of
from bncheck.runtime.reference import InFloat64, in_float64
from bncheck.runtime.refused import RefusedError
from bncheck.runtime.running import runner, said
from bncheck.runtime.sizes import Found, find
from bncheck.runtime.weights import Weights
from bncheck.shipping.sessions import LEVELS, Runnable, Runner
from bncheck.shipping.sides import Array, CannotRun, Port, Run, See, fitted, is_float
from bncheck.subject.inputs import InputShape

#: What onnx's evaluator raises where it cannot compute something.
_FAILURES: tuple[type[Exception], ...] = (*FAILURES, IndexError, TypeError)


class OnnxSide:
    """A model and the weights that it refers to.

    `shapes` are sizes at which it can be run, and others are found by trying.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        weights: Weights | None = None,
        shapes: Sequence[InputShape] = (),
    ) -> None:
        self.model = model
        self.runnable = Runnable(model, weights or Weights())
        self._taken = inputs_of(model, shapes)
        self._asked = asked_sizes(self._taken, shapes)
        self.outputs = [p.name for p in map(port_of, model.graph.output) if _floating(p.dtype)]
        self.tolerance = default_tolerance(model)
        self._open: Runner | None = None

    @property
    def inputs(self) -> list[Port]:
        """See Side."""
        ports = map(port_of, user_inputs(self.model))
        return [
            replace(p, shape=p.shape or t.shape) for p, t in zip(ports, self._taken, strict=True)
        ]

    @property
    def runs(self) -> dict[str, Run]:
        """See Side; a side that held them, and they it, would keep its session too long."""
        return {level: partial(self._run, level) for level in LEVELS}

    def batch_of(self, arrays: Sequence[Array]) -> int:
        """See Side."""
        return next((array.shape[0] for array in arrays if array.ndim), 0)

    def sized_by(self, arrays: Sequence[Array]) -> None:
        """See Side."""
        named = dict(zip([given.name for given in self._taken], arrays, strict=True))
        self._taken = inputs_of(self.model, (), named)
        self._asked = {**self._asked, **sizes_of(self._taken, named)}

    def _run(self, level: str, arrays: Sequence[Array]) -> list[Array]:
        """By onnxruntime at that level, which is all that is open then: sessions are large."""
        if self._open is None or self._open.level != level:
            self._open = None
            self._open = Runner(self.runnable, level)
        return self._open(fitted(self.inputs, arrays))

    def close(self) -> None:
        """Let go of the session that is open, and of what float64 takes."""
        self._open = None
        self.__dict__.pop("_in_float64", None)

    @cached_property
    def _in_float64(self) -> InFloat64:
        return in_float64(self.model, self.runnable.weights)

    def shapes(self, batch: int, factor: int) -> list[tuple[int, ...]]:
        """See Side."""
        firsts = batch_axes(self._taken)
        fixed = {*firsts, *self._asked, *self._found.tied}
        longer = [name for name in free_axes(self._taken) if name not in fixed]
        sizes = dict(self._found.of_batch(self._taken, batch))
        sizes |= {name: sizes[name] * factor for name in longer}
        return [given.sized(sizes) for given in self._taken]

    @cached_property
    def _found(self) -> Found:
        try:
            return find(self._taken, self._asked, runner(self.model, self.runnable.weights))
        except RefusedError as error:
            raise BncheckError(
                f"cannot be run for the comparison ({error})",
                error.hint or "give --data with samples that it takes",
            ) from None

    def precise(self, arrays: Sequence[Array], see: See | None = None) -> list[Array]:
        """See Side."""

        def watch(name: str, value: Any) -> None:
            if see is not None and isinstance(value, np.ndarray) and is_float(value):
                see(name, name, value)

        self._open = None  # float64 needs the room of a session
        try:
            results = self._in_float64.run(None, self._feed(arrays), watch)
        except _FAILURES as error:
            raise CannotRun(
                f"cannot be computed in float64 ({shortened(said(error), 160)})"
            ) from None
        return [np.asarray(result) for result in results if is_float(np.asarray(result))]

    def readers(self) -> Mapping[str, Sequence[str]]:
        """See Side."""
        found: dict[str, list[str]] = {}
        for node in self.model.graph.node:
            made = [name for name in node.output if name]
            found |= {name: [] for name in made}
            for name in {*_read_by(node)} & found.keys():
                found[name] += made
        return found

    def _feed(self, arrays: Sequence[Array]) -> dict[str, Array]:
        wide = [a.astype(np.float64) if is_float(a) else a for a in arrays]
        return dict(zip([port.name for port in self.inputs], wide, strict=True))


def port_of(info: onnx.ValueInfoProto) -> Port:
    """An input or output of a graph."""
    kind = info.type.tensor_type
    dtype = str(np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    shape = [_dim(dim, axis) for axis, dim in enumerate(kind.shape.dim)]
    return Port(info.name, dtype, tuple(shape))


def _dim(dim: Any, axis: int) -> int | str:
    return int(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or f"axis{axis}"


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Values that a node reads, those in its branches among them."""
    yield from node.input
    for attribute in node.attribute:
        for graph in graphs_of(attribute.g) if attribute.HasField("g") else ():
            for inner in graph.node:
                yield from inner.input


def _floating(dtype: str) -> bool:
    return "float" in dtype
