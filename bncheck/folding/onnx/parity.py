"""Is the folded ONNX model the same function? The original, computed in float64, is the judge.

As in program/parity.py: fresh, signed inputs at two batch sizes where the model accepts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bncheck.core.errors import BncheckError
from bncheck.folding.difference import ENOUGH_VALUES, Difference, Output
from bncheck.folding.inside import Inside, thinned
from bncheck.folding.onnx.reference import evaluator, in_float64, user_inputs
from bncheck.folding.result import TOLERANCES, Parity
from bncheck.reading.onnx_file import graphs_of

_BATCHES = (2, 3)
_SEED = 20260
_SIZE = 16  # of an axis that may have any size

Run = Callable[[dict[str, Any]], list[Any]]


def check(
    original: onnx.ModelProto,
    folded: onnx.ModelProto,
    twins: Mapping[str, str],
    tolerance: float | None,
    extra: Sequence[dict[str, Any]] = (),
) -> Parity:
    """Compare on fresh inputs and on those in `extra`, by onnxruntime where it is installed.

    `twins` names the values on the way that must be equal, in the original and in the folded model.
    """
    try:
        return _checked(original, folded, twins, tolerance, extra)
    except (
        RuntimeError,
        NotImplementedError,
        ValueError,
        onnx.shape_inference.InferenceError,
    ) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BncheckError(
            f"cannot be run for the comparison ({first[:160]})",
            "--dry-run prints the plan; nothing is written that was not compared",
        ) from None


def _checked(
    original: onnx.ModelProto,
    folded: onnx.ModelProto,
    twins: Mapping[str, str],
    tolerance: float | None,
    extra: Sequence[dict[str, Any]],
) -> Parity:
    limit = default_tolerance(original) if tolerance is None else tolerance
    outputs, inside = Difference(limit), Inside(Difference(limit))
    precise, run_original, run_folded = in_float64(original), _runner(original), _runner(folded)
    values = _Values(original, folded, twins)
    fresh = _fresh(original)
    usual = list(itertools.islice(fresh, len(_BATCHES) if _has_free_batch(original) else 1))
    usual += extra
    for inputs in itertools.chain(usual, itertools.islice(fresh, ENOUGH_VALUES)):
        enough = len(outputs.batches) >= len(usual)
        if enough and not outputs.needs_more and not inside.wants_more:
            break
        outputs.add(
            batch_of(inputs),
            _floats(precise.run(None, _widened(inputs))),
            _floats(run_folded(inputs)),
            _floats(run_original(inputs)),
        )
        if inside.wants_more:
            inside.add(batch_of(inputs), *values.of(inputs))
    outputs.refuse_nothing()
    parity = inside.judge(outputs.parity())
    return parity if parity.holds else replace(parity, parts_at=_maker(original, inside.first))


def everything(model: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, Any]:
    """Every value of the model's graph in float64."""
    names = [name for node in model.graph.node for name in node.output if name]
    results = in_float64(_watched(model, names)).run(None, _widened(inputs))
    return dict(zip(names, results, strict=True))


class _Values:
    """Both models with the values on the way as outputs."""

    def __init__(
        self, original: onnx.ModelProto, folded: onnx.ModelProto, twins: Mapping[str, str]
    ) -> None:
        there = {name for node in folded.graph.node for name in node.output}
        self.names = {name: twin for name, twin in twins.items() if twin in there}
        if self.names:  # a model without outputs is none
            watched = _watched(original, self.names)
            self.precise, self.as_written = in_float64(watched), _runner(watched)
            self.folded = in_float64(_watched(folded, dict.fromkeys(self.names.values())))

    def of(self, inputs: dict[str, Any]) -> Iterator[dict[str, Output]]:
        """What should be equal, by its name in the original: see Inside.add."""
        if not self.names:
            yield from ({}, {}, {})
            return
        wide = _widened(inputs)
        yield self._named(self.names, self.precise.run(None, wide))
        twins = dict.fromkeys(self.names.values())
        new = self._named(twins, self.folded.run(None, wide))
        yield {name: new[twin] for name, twin in self.names.items() if twin in new}
        yield self._named(self.names, self.as_written(inputs))

    @staticmethod
    def _named(names: Iterable[str], results: Iterable[Any]) -> dict[str, Output]:
        pairs = zip(names, results, strict=True)
        return {name: thinned(value) for name, value in pairs if _is_float(value)}


def _watched(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    new = onnx.ModelProto()
    new.CopyFrom(model)
    del new.graph.output[:]
    new.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return new


def _maker(model: onnx.ModelProto, name: str | None) -> str | None:
    """The node that makes a value."""
    found = next((node for node in model.graph.node if name in node.output), None)
    return name if found is None else found.name or name


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


def _fresh(model: onnx.ModelProto) -> Iterator[dict[str, Any]]:
    """Inputs at two batch sizes, and as many more as anybody asks for."""
    generator = np.random.default_rng(_SEED)
    infos = list(user_inputs(model))
    first = _BATCHES if _has_free_batch(model) else ()
    for batch in itertools.chain(first, itertools.repeat(ENOUGH_VALUES // 4)):
        yield {info.name: _fresh_input(info, batch, generator) for info in infos}


def _has_free_batch(model: onnx.ModelProto) -> bool:
    shapes = [info.type.tensor_type.shape for info in user_inputs(model)]
    return any(shape.dim and not shape.dim[0].HasField("dim_value") for shape in shapes)


def batch_of(inputs: dict[str, Any]) -> int:
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
    names = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.DOUBLE: "float64",
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.BFLOAT16: "bfloat16",
    }
    return max((TOLERANCES[names[kind]] for kind in kinds if kind in names), default=1e-5)
