"""An ONNX model run as it is written: by onnxruntime, and where that cannot, by onnx' evaluator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx.reference.op_run import RuntimeTypeError

from bncheck.runtime.inputs import Named
from bncheck.runtime.reference import evaluator, with_opset
from bncheck.runtime.weights import Weights, fed, whole

Run = Callable[[Named], Sequence[Any]]

#: How runtimes say that they do not have an operator, and where they failed.
_UNKNOWN = (
    re.compile(r"Node type '(?P<kind>\w+)' from domain '(?P<domain>[\w.]*)' is unknown"),
    re.compile(r"implementation for operator '(?P<kind>\w+)' and domain '(?P<domain>[\w.]*)'"),
    re.compile(r"Domain '(?P<domain>[\w.]*)' \(node type: '(?P<kind>\w+)'\) is not specified"),
)
_RUNNING = re.compile(
    r"while running (?P<kind>\w+) node\. Name:'(?P<name>[^']*)' Status Message: (?P<rest>.*)"
)

#: Where in its own code, and which condition was not met.
_IN_ITS_CODE = re.compile(r"^\S+\.(?:cc|h):\d+ (?:.* was false\. )?")

#: What onnx' evaluator raises, too, for operators and inputs that it does not understand.
_CONFUSED = (TypeError, IndexError, KeyError, AttributeError, AssertionError)


def runner(model: onnx.ModelProto, weights: Weights) -> Run:
    """What runs it and gives all outputs. Raises RuntimeError, ValueError, NotImplementedError."""
    try:
        return by_onnxruntime(model, weights)
    except Exception:  # not installed, or it has no kernel for a dtype (bfloat16, float64)
        return by_evaluator(model, weights)


def by_evaluator(model: onnx.ModelProto, weights: Weights) -> Run:
    """onnx' evaluator. Raises NotImplementedError for what it does not know."""
    try:
        return reporting(evaluator(whole(model, weights)))
    except Exception as error:
        raise NotImplementedError(said(error)) from None


def by_onnxruntime(model: onnx.ModelProto, weights: Weights) -> Run:
    """onnxruntime, which raises errors of its own for a model that it does not take."""
    session, held = _session_with(with_opset(model), weights)

    def run(inputs: Named) -> Sequence[Any]:
        try:
            return list(session.run(None, {**held, **inputs}))
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise RuntimeError(said(error)) from None

    return run


def _session_with(model: onnx.ModelProto, weights: Weights) -> tuple[Any, Named]:
    """A session, and the weights that it is given with each run, which it so need not copy.

    A few runs do not pay for what onnxruntime makes of a graph or a weight.
    """
    light, held = fed(model, weights)
    try:
        return session_of(light), held
    except Exception:
        if not held:
            raise
    return session_of(whole(model, weights)), {}  # an operator that wants constants


def session_of(
    model: onnx.ModelProto | Path,
    level: str = "ORT_DISABLE_ALL",
    threads: int = 0,
    weights: Mapping[str, Any] | None = None,
) -> Any:
    """onnxruntime's session on the CPU; a path where the model's data lie beside it.

    `weights` are values of its own for weights that the model has no numbers of.
    Raises ImportError where it is not installed, and whatever it raises itself.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    # Threads that wait by spinning double the cost of a single run.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if weights:
        options.add_external_initializers([*weights], [*weights.values()])
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def said(error: Exception) -> str:
    """What a runtime says, in one line that begins with the operator where it names one."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    for pattern in _UNKNOWN:
        if found := pattern.search(text):
            name = ".".join(filter(None, (found["domain"], found["kind"])))
            return f"no runtime here has the operator {name}"
    if found := _RUNNING.search(text):
        where = " ".join(filter(None, (found["kind"], found["name"])))
        return f"{where}: {_IN_ITS_CODE.sub('', found['rest'])}"
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)


def reporting(evaluator: Any) -> Run:
    """onnx' evaluator, with one class of error for what it cannot do."""

    def run(inputs: Named) -> Sequence[Any]:
        try:
            return list(evaluator.run(None, inputs))
        except RuntimeTypeError as error:  # no other sizes would be of another dtype
            raise NotImplementedError(str(error)) from None
        except _CONFUSED as error:
            raise RuntimeError(str(error)) from None

    return run
