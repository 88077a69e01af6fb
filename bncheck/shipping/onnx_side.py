"""An ONNX model as a side of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bncheck.core.errors import REPORT_IT, BncheckError
from bncheck.folding.onnx.file import user_inputs
from bncheck.folding.onnx.parity import default_tolerance, everything
from bncheck.folding.onnx.reference import in_float64
from bncheck.shipping.sessions import LEVELS, Runner
from bncheck.shipping.sides import Array, Port, Run, fitted, is_float

#: The size of a free axis that is not a batch.
_SIZE = 16


class OnnxSide:
    """A model; `path` where its data lie in a file beside it, which onnxruntime must find."""

    def __init__(self, model: onnx.ModelProto, path: Path | None = None) -> None:
        self.model = model
        self.inputs = [port_of(info) for info in user_inputs(model)]
        self.outputs = [p.name for p in map(port_of, model.graph.output) if _floating(p.dtype)]
        self.tolerance = default_tolerance(model)
        self.runs: dict[str, Run] = {
            level: self._fitted(Runner(path or model, level)) for level in LEVELS
        }

    def _fitted(self, run: Run) -> Run:
        return lambda arrays: run(fitted(self.inputs, arrays))

    def shapes(self, batch: int, factor: int) -> list[tuple[int, ...]]:
        """See Side."""
        return [
            tuple(
                size if isinstance(size, int) else batch if axis == 0 else _SIZE * factor
                for axis, size in enumerate(port.shape)
            )
            for port in self.inputs
        ]

    def precise(self, arrays: Sequence[Array]) -> list[Array]:
        """See Side."""
        try:
            results = in_float64(self.model).run(None, self._feed(arrays))
        except (NotImplementedError, RuntimeError, ValueError, IndexError, TypeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise BncheckError(
                f"cannot be computed in float64 ({first[:160]})", REPORT_IT
            ) from None
        return [np.asarray(result) for result in results if is_float(np.asarray(result))]

    def values(self, arrays: Sequence[Array]) -> Iterator[tuple[str, str, Array]]:
        """See Side."""
        for name, value in everything(self.model, self._feed(arrays)).items():
            if isinstance(value, np.ndarray) and is_float(value):
                yield name, name, value

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
    return int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or f"axis{axis}"


def _floating(dtype: str) -> bool:
    return "float" in dtype
