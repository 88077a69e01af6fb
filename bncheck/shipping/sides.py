"""Programs of either kind as something to run on the same inputs and to hold against another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bncheck.folding.program.sizes import fixed_size

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

Array: TypeAlias = NDArray[Any]
Run: TypeAlias = Callable[[Sequence[Array]], list[Array]]
#: Takes a value on the way: its name, what to call it, its numbers.
See: TypeAlias = Callable[[str, str, Array], None]

#: Fresh inputs at these batch sizes: one sample, and a number that no model is made for.
BATCHES = (1, 3)
#: Of another free axis where the program does not tell the size in its example.
_SIZE = 8


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its dtype, and its shape in which a free axis is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


class Side(Protocol):
    """A program; inputs and outputs are NumPy arrays in order, outputs the floating ones only."""

    @property
    def inputs(self) -> Sequence[Port]:
        """What it takes."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of its floating outputs."""

    @property
    def tolerance(self) -> float:
        """By the narrowest floating dtype in it: folding/result.py."""

    @property
    def runs(self) -> Mapping[str, Run]:
        """Ways to run it as it is, by name. A way may raise CannotRun when it is called."""

    def shapes(self, batch: int, factor: int) -> list[tuple[int, ...]]:
        """Sizes of its inputs: free first axes `batch`, other free ones `factor` examples long."""

    def batch_of(self, arrays: Sequence[Array]) -> int:
        """How many samples these inputs hold."""

    def sized_by(self, arrays: Sequence[Array]) -> None:
        """Let fresh inputs have the sizes of these samples where its own leave them open."""

    def precise(self, arrays: Sequence[Array], see: See | None = None) -> list[Array]:
        """Its outputs computed in float64. Raises CannotRun where nothing here can do that.

        `see` is shown every floating value on the way, which later calls may change.
        """

    def readers(self) -> Mapping[str, Sequence[str]]:
        """For each value on the way, in the order of calls, the values that are made of it."""


class CannotRun(Exception):  # noqa: N818
    """A runtime has no kernel for something; the message says what."""


def free_axes(side: Side) -> int:
    """How many axes of its inputs may have any size."""
    return sum(isinstance(size, str) for port in side.inputs for size in port.shape)


def is_float(array: Array) -> bool:
    """float64 to bfloat16, which NumPy does not count among its floats."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def fresh(side: Side, batch: int, factor: int, generator: np.random.Generator) -> list[Array]:
    """Signed inputs, not of variance 1 about 0: nothing may rest on inputs that look normalised."""
    made = []
    for port, shape in zip(side.inputs, side.shapes(batch, factor), strict=True):
        dtype = numpy_dtype(port.dtype)
        if np.dtype(dtype).kind in "iub":
            made.append(np.asarray(generator.integers(0, 2, shape), dtype))
        else:
            made.append(np.asarray(generator.standard_normal(shape) * 1.5 - 0.25, dtype))
    return made


def fitted(ports: Sequence[Port], arrays: Sequence[Array]) -> list[Array]:
    """Inputs in the dtype that a side takes, which may differ from the other's."""
    return [
        array.astype(numpy_dtype(port.dtype)) for port, array in zip(ports, arrays, strict=True)
    ]


def numpy_dtype(name: str) -> Any:
    """NumPy's dtype of that name, or ml_dtypes'."""
    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(name)


class TorchSide:
    """A torch.export program, run by torch.

    `batch_axes` are the axes of the batch by input, where it is not the first of all.
    """

    def __init__(self, program: ExportedProgram, batch_axes: Sequence[int | None] = ()) -> None:
        from bncheck.folding.program.dtypes import default_tolerance
        from bncheck.folding.program.exporting import user_inputs

        self.program, self._batch_axes = program, batch_axes
        self.tolerance = default_tolerance(program)
        self._nodes = [n for n in user_inputs(program) if hasattr(n.meta.get("val"), "dtype")]
        self.inputs = [_port(node.name, node.meta["val"]) for node in self._nodes]
        self.outputs = _float_outputs(program)

    @property
    def runs(self) -> dict[str, Run]:
        """See Side."""
        return {"torch": self.run}

    def shapes(self, batch: int, factor: int) -> list[tuple[int, ...]]:
        """See Side."""
        from bncheck.folding.program.exporting import batch_sizes

        values = [node.meta["val"] for node in self._nodes]
        batches = batch_sizes(values, self._batch_axes)
        firsts = {str(size) for size in batches if fixed_size(size) is None}
        return [tuple(_size(s, firsts, batch, factor) for s in v.shape) for v in values]

    def batch_of(self, arrays: Sequence[Array]) -> int:
        """See Side."""
        axes = self._batch_axes or [0 if array.ndim else None for array in arrays]
        pairs = zip(arrays, axes, strict=False)
        return next((array.shape[axis] for array, axis in pairs if axis is not None), 0)

    def sized_by(self, arrays: Sequence[Array]) -> None:
        """Those of its example are in it."""

    def precise(self, arrays: Sequence[Array], see: See | None = None) -> list[Array]:
        """See Side."""
        import torch

        from bncheck.folding.program.parity import arrays as wide
        from bncheck.folding.program.running import run_in_float64
        from bncheck.graph.program.calls import module_path

        def watch(node: torch.fx.Node, value: Any) -> None:
            is_tensor = node.op == "call_function" and isinstance(value, torch.Tensor)
            if see is not None and is_tensor and value.is_floating_point():
                shown = module_path(node) or node.name
                see(node.name, shown, value.detach().cpu().double().numpy())

        watched = None if see is None else watch
        return wide(run_in_float64(self.program, self._flat(arrays), watched))

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """In its own dtypes, by torch."""
        from bncheck.folding.program.parity import arrays as wide
        from bncheck.folding.program.running import run_as_written

        return wide(run_as_written(self.program, self._flat(fitted(self.inputs, arrays))))

    def readers(self) -> Mapping[str, Sequence[str]]:
        """See Side."""
        nodes = self.program.graph.nodes
        return {node.name: [user.name for user in node.users] for node in nodes}

    def _flat(self, arrays: Sequence[Array]) -> tuple[Any, ...]:
        """All inputs of the graph: the tensors, and between them what is not a tensor."""
        from bncheck.folding.program.exporting import user_inputs
        from bncheck.subject.model import to_tensor

        rest = iter(arrays)
        return tuple(
            to_tensor(next(rest)) if node in self._nodes else node.meta.get("val")
            for node in user_inputs(self.program)
        )


def _port(name: str, value: torch.Tensor) -> Port:
    known = [fixed_size(size) for size in value.shape]
    shape = tuple(str(s) if k is None else k for s, k in zip(value.shape, known, strict=True))
    return Port(name, str(value.dtype).removeprefix("torch."), shape)


def _size(size: Any, firsts: set[str], batch: int, factor: int) -> int:
    """A size with its symbols replaced; what is derived from a symbol follows it."""
    known = fixed_size(size)
    if known is not None:
        return known
    expression = size.node.expr
    hint = int(size.node.hint) if size.node.has_hint() and size.node.hint else _SIZE
    values = {
        symbol: batch if str(symbol) in firsts else factor * hint
        for symbol in expression.free_symbols
    }
    return int(expression.subs(values))


def _float_outputs(program: ExportedProgram) -> list[str]:
    from torch.export.graph_signature import OutputKind

    results = program.graph.output_node().args[0]
    assert isinstance(results, (tuple, list))
    pairs = zip(results, program.graph_signature.output_specs, strict=True)
    return [
        node.name
        for node, spec in pairs
        if spec.kind == OutputKind.USER_OUTPUT
        and hasattr(node, "meta")
        and node.meta["val"].is_floating_point()
    ]
