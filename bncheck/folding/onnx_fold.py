"""Fold an ONNX model: read, plan, rewrite, check, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.errors import BncheckError
from bncheck.folding.from_onnx import read_model
from bncheck.folding.onnx_reference import evaluator, in_float64, user_inputs
from bncheck.folding.result import TOLERANCES, FoldReport, Parity, findings_of
from bncheck.folding.rewrite_onnx import rewrite
from bncheck.folding.weights import solve
from bncheck.limits import MAX_ONNX_BYTES
from bncheck.reading.onnx_file import graphs_of, load_tensor
from bncheck.reading.source import Source
from bncheck.reporting.write import replacing

_BATCHES = (2, 3)
_SEED = 20260
_SIZE = 16  # of an axis that may have any size
_FLOOR = 0.05  # as in folding/parity.py

Run = Callable[[dict[str, Any]], list[Any]]


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read a model with its external data, which may lie in its own folder only."""
    source = Source.open(path)
    if source.size > MAX_ONNX_BYTES:
        raise BncheckError("is larger than a protobuf can be", "check the file", str(path))
    model = onnx.ModelProto()
    model.ParseFromString(source.read(0, source.size))
    for graph in graphs_of(model.graph):
        tensors = list(graph.initializer)
        tensors += [a.t for n in graph.node for a in n.attribute if a.HasField("t")]
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                array = np.asarray(load_tensor(tensor, path))
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model with all its data in one file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def fold_onnx(
    path: Path,
    *,
    keep: Sequence[str] = (),
    tolerance: float | None = None,
    dry_run: bool = False,
    fail_unfolded: bool = False,
) -> tuple[FoldReport, onnx.ModelProto]:
    """The folded model and the report about it. Raises BncheckError."""
    original = load_onnx(path)
    folded = onnx.ModelProto()
    folded.CopyFrom(original)
    scopes = read_model(folded)
    solutions = [solve(scope.graph, keep) for scope in scopes]
    decisions = tuple(d for solution in solutions for d in solution.plan.decisions)
    if dry_run:
        findings = findings_of(decisions, None, fail_unfolded)
        return FoldReport(decisions, findings=findings), original
    rewrite(folded, scopes, solutions)
    _check_model(original, folded)
    parity = compare(original, folded, tolerance)
    report = FoldReport(
        decisions,
        parity,
        flushed=sum(solution.flushed for solution in solutions),
        findings=findings_of(decisions, parity, fail_unfolded),
    )
    return report, folded


def _check_model(original: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    """onnx.checker must accept the result as it accepts the original."""
    complaint = _complaint(folded)
    if complaint and not _complaint(original):
        raise BncheckError(
            f"folds into a model that onnx.checker refuses ({complaint})",
            "please report it; nothing was written",
        )


def _complaint(model: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        return (str(error).splitlines() or [type(error).__name__])[0][:160]
    return ""


def compare(original: onnx.ModelProto, folded: onnx.ModelProto, tolerance: float | None) -> Parity:
    """Both on fresh inputs, by onnxruntime, against the original in float64."""
    precise = in_float64(original)
    runs = [_runner(original), _runner(folded)]
    worst, own, batches = 0.0, 0.0, []
    agreement: list[float] = []
    for batch, inputs in _fresh(original):
        batches.append(batch)
        wide = {k: v.astype(np.float64) if _is_float(v) else v for k, v in inputs.items()}
        reference = list(precise.run(None, wide))
        given = runs[1](inputs)
        own = max(own, _worst(reference, runs[0](inputs)))
        worst = max(worst, _worst(reference, given))
        agreement += _agreement(reference, given)
    limit = _default_tolerance(original) if tolerance is None else tolerance
    share = min(agreement) if agreement else None
    return Parity(worst, own, limit, tuple(batches), share)


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


def _fresh(model: onnx.ModelProto) -> Iterator[tuple[int, dict[str, Any]]]:
    generator = np.random.default_rng(_SEED)
    infos = list(user_inputs(model))
    free = any(
        info.type.tensor_type.shape.dim
        and not info.type.tensor_type.shape.dim[0].HasField("dim_value")
        for info in infos
    )
    for batch in _BATCHES if free else (0,):
        inputs = {info.name: _fresh_input(info, batch, generator) for info in infos}
        first = next(iter(inputs.values()), np.zeros(0))
        yield (first.shape[0] if first.ndim else 0), inputs


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


def _is_float(array: Any) -> bool:
    return bool(array.dtype.kind == "f" or array.dtype.name == "bfloat16")


def _worst(reference: Sequence[Any], given: Sequence[Any]) -> float:
    pairs = zip(reference, given, strict=True)
    floats = [(a, b) for a, b in pairs if isinstance(a, np.ndarray) and _is_float(a)]
    return max((_relative_error(a, b) for a, b in floats), default=0.0)


def _relative_error(reference: Any, given: Any) -> float:
    """As parity.relative_error, in NumPy."""
    if reference.shape != given.shape:
        return float("inf")
    if not reference.size:
        return 0.0
    first, second = (_by_channel(np.asarray(a).astype(np.float64)) for a in (reference, given))
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(first - second)).max(1)
    if not np.isfinite(difference).all():
        return float("inf")
    size = np.where(np.isfinite(first), np.abs(first), 0.0).max(1)
    floor = max(_FLOOR * size.max(), np.finfo(np.float64).tiny)
    return float((difference / np.maximum(size, floor)).max())


def _by_channel(array: Any) -> Any:
    if array.ndim < 2:
        return array.reshape(1, -1)
    return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)


def _agreement(reference: Sequence[Any], given: Sequence[Any]) -> list[float]:
    return [
        float((a.argmax(1) == b.argmax(1)).mean())
        for a, b in zip(reference, given, strict=True)
        if isinstance(a, np.ndarray) and _is_float(a) and a.ndim == 2 and a.shape[1] > 1
    ]


def _default_tolerance(model: onnx.ModelProto) -> float:
    kinds = {tensor.data_type for graph in graphs_of(model.graph) for tensor in graph.initializer}
    kinds |= {info.type.tensor_type.elem_type for info in model.graph.input}
    names = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.DOUBLE: "float64",
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.BFLOAT16: "bfloat16",
    }
    return max((TOLERANCES[names[kind]] for kind in kinds if kind in names), default=1e-5)
