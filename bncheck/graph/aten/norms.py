"""Calls that normalise."""

from __future__ import annotations

from bncheck.graph.aten.calls import Call, Describe, Described
from bncheck.graph.specs import ALONE, ALONE_HINT, Norm, Rescaled

BATCH_NORMS = {
    "batch_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
    "miopen_batch_norm", "_batch_norm_impl_index", "_native_batch_norm_legit_functional",
    "_batch_norm_no_update", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_with_update_functional",
}  # fmt: skip
_NO_TRAINING = {"_native_batch_norm_legit_no_training", "_batch_norm_no_update"}
_TRAINS = "it normalises with the statistics of the batch: it is in training mode"
_UNTRACKED = "it normalises with the statistics of the batch: it tracks none (BN116)"
_EVAL_HINT = "call model.eval() before folding"
_TRACK_HINT = "train it with track_running_stats=True"


def _batch_norm(call: Call) -> Described:
    trains = bool(call.first("training", "train")) or "with_update" in call.name
    trains = (trains or call.name.endswith("_functional")) and call.name not in _NO_TRAINING
    return _with_statistics(call, trains)


def _instance_norm(call: Call) -> Described:
    trains = bool(call("use_input_stats"))
    return _with_statistics(call, trains, ALONE if trains else "")


def _with_statistics(call: Call, trains: bool, because: str = "") -> Described:
    mean, var = call("running_mean"), call("running_var")
    untracked = mean is None or var is None
    why, hint = (_UNTRACKED, _TRACK_HINT) if untracked else (_TRAINS, _EVAL_HINT)
    if because:
        hint = "leave it" if call("weight") is None else ALONE_HINT
    eps = float(call.first("eps", "epsilon"))
    spec = Norm(eps, trains or untracked, because or why, hint)
    return spec, (call("input"), call("weight"), call("bias"), mean, var)


def _layer_norm(call: Call) -> Described:
    axes = call.last(len(call("normalized_shape")))
    return Rescaled(axes), (call("input"), call("weight"), call("bias"))


def _rms_norm(call: Call) -> Described:
    axes = call.last(len(call("normalized_shape")))
    return Rescaled(axes, shifts=False), (call("input"), call("weight"), None)


def _group_norm(call: Call) -> Described:
    return Rescaled((1,)), (call("input"), call("weight"), call("bias"))


NORMS: dict[str, Describe] = {
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    "instance_norm": _instance_norm,
    **dict.fromkeys(("layer_norm", "native_layer_norm"), _layer_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    "rms_norm": _rms_norm,
}
