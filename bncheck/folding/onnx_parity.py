"""Is the folded ONNX model the same function? The original, computed in float64, is the judge.

As in folding/parity.py: fresh, signed inputs at two batch sizes where the model accepts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bncheck.errors import BncheckError
from bncheck.folding.difference import ENOUGH_VALUES, Difference, Output, relative_error
from bncheck.folding.onnx_reference import evaluator, in_float64, user_inputs
from bncheck.folding.result import TOLERANCES, Parity
from bncheck.reading.onnx_file import graphs_of

_BATCHES = (2, 3)
_SEED = 20260
_SIZE = 16  # of an axis that may have any size

Run = Callable[[dict[str, Any]], list[Any]]


def check(
    original: onnx.ModelProto,
    folded: onnx.ModelProto,
    altered: Collection[str],
    tolerance: float | None,
) -> Parity:
    """Compare on fresh inputs, by onnxruntime where it is installed.

    `altered` names the values that differ by intention; where the two part is looked for elsewhere.
    """
    try:
        return _checked(original, folded, altered, tolerance)
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
    altered: Collection[str],
    tolerance: float | None,
) -> Parity:
    precise = in_float64(original)
    run_original, run_folded = _runner(original), _runner(folded)
    difference = Difference(default_tolerance(original) if tolerance is None else tolerance)
    fresh = _fresh(original)
    usual = list(itertools.islice(fresh, len(_BATCHES) if _has_free_batch(original) else 1))
    for inputs in itertools.chain(usual, itertools.islice(fresh, ENOUGH_VALUES)):
        if len(difference.batches) >= len(usual) and not difference.needs_more:
            break
        difference.add(
            _batch_of(inputs),
            _floats(precise.run(None, _widened(inputs))),
            _floats(run_folded(inputs)),
            _floats(run_original(inputs)),
        )
    parity = difference.parity()
    if parity.holds:
        return parity
    return difference.parity(_where(original, folded, usual[0], altered, difference.tolerance))


def _where(
    original: onnx.ModelProto,
    folded: onnx.ModelProto,
    inputs: dict[str, Any],
    altered: Collection[str],
    tolerance: float,
) -> str | None:
    """The first node, by name, whose results differ although they should not."""
    values = [everything(model, inputs) for model in (original, folded)]
    for node in folded.graph.node:
        for name in node.output:
            pair = [found.get(name) for found in values]
            if name in altered or not all(_is_float(item) for item in pair):
                continue
            if relative_error(pair[0], pair[1]) > tolerance:  # type: ignore[arg-type]
                return str(node.name or name)
    return None


def everything(model: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, Any]:
    """Every value of the model's graph in float64, by making it an output."""
    names = [name for node in model.graph.node for name in node.output if name]
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.output[:]
    wide.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, in_float64(wide).run(None, _widened(inputs)), strict=True))


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
    return lambda inputs: list(session.run(None, inputs))


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


def _batch_of(inputs: dict[str, Any]) -> int:
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
