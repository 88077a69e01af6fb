"""An ONNX model and its fold, side by side: see folding/proof.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bncheck.folding.difference import Output
from bncheck.folding.onnx.file import user_inputs
from bncheck.folding.onnx.reference import evaluator, in_float64
from bncheck.folding.proof import RefusedError, sampled
from bncheck.folding.result import tolerance_for
from bncheck.graph.onnx.nodes import FLOATS
from bncheck.reading.onnx_file import graphs_of

_SEED = 20260
_SIZE = 16  # of an axis that may have any size

#: By the names of the model's inputs.
Named = dict[str, Any]
Run = Callable[[Named], list[Any]]


class ModelSides:
    """As written, they are run by onnxruntime where it is installed.

    `twins` names the values on the way that must be equal, in the original and in the fold.
    """

    def __init__(
        self, original: onnx.ModelProto, folded: onnx.ModelProto, twins: Mapping[str, str]
    ) -> None:
        self.original = original
        self.examples: Sequence[Named] = ()
        self.tolerance = default_tolerance(original)
        self._infos = list(user_inputs(original))
        shapes = [info.type.tensor_type.shape for info in self._infos]
        self.has_free_batch = any(s.dim and not s.dim[0].HasField("dim_value") for s in shapes)
        self._generator = np.random.default_rng(_SEED)
        self._precise, self._as_written = in_float64(original), _runner(original)
        self._folded = _runner(folded)
        there = {name for node in folded.graph.node for name in node.output}
        self._twins = {name: twin for name, twin in twins.items() if twin in there}
        if self._twins:  # a model without outputs is not a model
            watched = _watched(original, self._twins)
            self._precise_inside, self._inside = in_float64(watched), _runner(watched)
            self._folded_inside = in_float64(_watched(folded, dict.fromkeys(self._twins.values())))

    def fresh(self, batch: int) -> Named:
        """Random inputs."""
        return {info.name: _fresh_input(info, batch, self._generator) for info in self._infos}

    def batch_of(self, inputs: Named) -> int:
        """The size of the first axis."""
        return batch_of(inputs)

    def outputs(self, inputs: Named) -> tuple[list[Output], list[Output], list[Output]]:
        """Of the original in float64, of the fold, of the original. Raises RefusedError."""
        try:
            precise = self._precise.run(None, _widened(inputs))
        except NotImplementedError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise RefusedError(str(error)) from None
        return _floats(precise), _floats(self._folded(inputs)), _floats(self._as_written(inputs))

    def intermediates(self, inputs: Named) -> Sequence[dict[str, Output]]:
        """What should be equal, by its name in the original."""
        if not self._twins:
            return {}, {}, {}
        wide = _widened(inputs)
        new = _sampled(dict.fromkeys(self._twins.values()), self._folded_inside.run(None, wide))
        return (
            _sampled(self._twins, self._precise_inside.run(None, wide)),
            {name: new[twin] for name, twin in self._twins.items() if twin in new},
            _sampled(self._twins, self._inside(inputs)),
        )

    def maker_of(self, name: str | None) -> str | None:
        """The node that makes a value."""
        found = next((node for node in self.original.graph.node if name in node.output), None)
        return name if found is None else found.name or name


def _sampled(names: Iterable[str], results: Iterable[Any]) -> dict[str, Output]:
    pairs = zip(names, results, strict=True)
    return {name: sampled(value) for name, value in pairs if _is_float(value)}


def everything(model: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, Any]:
    """Every value of the model's graph in float64."""
    names = [name for node in model.graph.node for name in node.output if name]
    results = in_float64(_watched(model, names)).run(None, _widened(inputs))
    return dict(zip(names, results, strict=True))


def _watched(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    new = onnx.ModelProto()
    new.CopyFrom(model)
    del new.graph.output[:]
    new.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return new


def _runner(model: onnx.ModelProto) -> Run:
    """onnxruntime where it is installed and takes the model; else the reference evaluator."""
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # not installed, or it has no kernel for a dtype (bfloat16, float64)
        slow = evaluator(model)
        return lambda inputs: list(slow.run(None, inputs))

    def run(inputs: dict[str, Any]) -> list[Any]:
        try:
            return list(session.run(None, inputs))
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise RuntimeError(str(error)) from None

    return run


def batch_of(inputs: Named) -> int:
    """How many samples these inputs hold."""
    first = next(iter(inputs.values()), np.zeros(0))
    return int(first.shape[0]) if first.ndim else 0


def _fresh_input(info: onnx.ValueInfoProto, batch: int, generator: np.random.Generator) -> Any:
    kind = info.type.tensor_type
    sizes = [
        int(dim.dim_value) if dim.HasField("dim_value") else batch if i == 0 else _SIZE
        for i, dim in enumerate(kind.shape.dim)
    ]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if kind.elem_type in (onnx.TensorProto.BOOL, onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return generator.integers(0, 2, sizes).astype(dtype)
    return (generator.standard_normal(sizes) * 1.5 - 0.25).astype(dtype)


def _is_float(item: Any) -> bool:
    return isinstance(item, np.ndarray) and (
        item.dtype.kind == "f" or item.dtype.name == "bfloat16"
    )


def _floats(results: Any) -> list[Output]:
    return [result for result in results if _is_float(result)]


def _widened(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: v.astype(np.float64) if _is_float(v) else v for k, v in inputs.items()}


def default_tolerance(model: onnx.ModelProto) -> float:
    """By the narrowest floating dtype of weights, inputs and casts."""
    kinds = {tensor.data_type for graph in graphs_of(model.graph) for tensor in graph.initializer}
    kinds |= {info.type.tensor_type.elem_type for info in model.graph.input}
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    kinds |= {a.i for node in nodes if node.op_type == "Cast" for a in node.attribute}
    return tolerance_for(FLOATS[kind] for kind in kinds if kind in FLOATS)
