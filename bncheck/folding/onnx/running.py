"""An ONNX model run as it is written: by onnxruntime, and where that cannot, by onnx' evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx

from bncheck.folding.onnx.inputs import Named

Run = Callable[[Named], Sequence[Any]]

#: What onnx' evaluator raises, too, for operators and inputs that it does not understand.
_CONFUSED = (TypeError, IndexError, KeyError, AttributeError, AssertionError)


def runner(model: onnx.ModelProto) -> Run:
    """What runs it and gives all outputs. Raises RuntimeError, ValueError, NotImplementedError."""
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # A few runs do not pay for what onnxruntime makes of a graph, nor for threads that spin.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # not installed, or it has no kernel for a dtype (bfloat16, float64)
        from bncheck.folding.onnx.reference import evaluator

        return reporting(evaluator(model))

    def run(inputs: Named) -> Sequence[Any]:
        try:
            return list(session.run(None, inputs))
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise RuntimeError(str(error)) from None

    return run


def reporting(evaluator: Any) -> Run:
    """onnx' evaluator, with one class of error for what it cannot do."""

    def run(inputs: Named) -> Sequence[Any]:
        try:
            return list(evaluator.run(None, inputs))
        except _CONFUSED as error:
            raise RuntimeError(str(error)) from None

    return run
