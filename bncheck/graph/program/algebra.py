"""Calls that compute with parameters, and sums and products, as the planner sees them."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from bncheck.graph.dataflow import (
    Add,
    Conv,
    ConvTranspose,
    Linear,
    Lookup,
    Mul,
    Norm,
    Rectifier,
    Rescaled,
)
from bncheck.graph.einsum import einsum_spec
from bncheck.graph.geometry import centre_of
from bncheck.graph.program.calls import (
    Arguments,
    Described,
    rank_of,
    sizes_of,
)

_CONVS = {"conv1d", "conv2d", "conv3d"}
_TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
BATCH_NORMS = {
    "batch_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
    "miopen_batch_norm", "_batch_norm_impl_index", "_native_batch_norm_legit_functional",
    "_batch_norm_no_update", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_with_update_functional",
}  # fmt: skip
_NO_TRAINING = {"_native_batch_norm_legit_no_training", "_batch_norm_no_update"}
_TRAINS = "it normalises with the statistics of the batch: it is in training mode"
_UNTRACKED = "it normalises with the statistics of the batch: it tracks none"
_ALONE = "it normalises each image with its own statistics"
_EVAL_HINT = "call model.eval() before folding"
_TRACK_HINT = "train it with track_running_stats=True"


def linear_algebra(node: Node, name: str, a: Arguments) -> Described | None:
    """Convolutions and products with a matrix."""
    if name in _CONVS or (name == "convolution" and not a("transposed")):
        source = a.first("input")
        padding = a("padding")
        pads = padding == "same" or (
            padding != "valid" and any(size != 0 for size in sizes_of(padding, 1))
        )
        if rank_of(a("weight")) - rank_of(source) not in (0, 1):  # 1: an image without a batch
            return None
        pads = pads and not (padding == "same" and set(_kernel(a("weight"))) == {1})
        centre = centre_of(
            _kernel(a("weight")),
            a("stride"),
            a("dilation"),
            None if padding == "same" else 0 if padding == "valid" else padding,
        )
        return Conv(int(a("groups")), pads, centre), (source, a("weight"), a("bias"))
    if name in _TRANSPOSED or name == "convolution":
        return _transposed(a)
    if name == "linear" and rank_of(a("weight")) == 2:
        return Linear(output_first=True), (a("input"), a("weight"), a("bias"))
    if name in ("matmul", "mm") and rank_of(node.args[1]) == 2:
        return Linear(output_first=False), (node.args[0], node.args[1], None)
    if name == "matmul" and rank_of(node.args[0]) == 2 and rank_of(node.args[1]) > 2:
        return Linear(output_first=True, axes=(-2, -2)), (node.args[1], node.args[0], None)
    if name == "embedding" and rank_of(a("weight")) == 2:
        return Lookup(), (a("indices"), a("weight"))
    if name == "einsum":
        return _einsum(a("equation"), a("tensors"))
    if name == "addmm":
        alpha, beta = a("alpha", 1), a("beta", 1)
        if not isinstance(alpha, (int, float)) or not isinstance(beta, (int, float)):
            return None
        return Linear(False, float(alpha), float(beta)), (a("mat1"), a("mat2"), a("self"))
    return None


def _einsum(equation: str, operands: Any) -> Described | None:
    """A product with a matrix, along whichever axis."""
    if len(operands) != 2:
        return None
    for place in (1, 0):
        spec = einsum_spec(equation, place)
        if spec is not None and rank_of(operands[place]) == 2:
            return spec, (operands[1 - place], operands[place], None)
    return None


def _kernel(weight: Any) -> tuple[int, ...]:
    return tuple(weight.meta["val"].shape[2:]) if isinstance(weight, Node) else ()


def _transposed(a: Arguments) -> Described | None:
    source, weight = a("input"), a("weight")
    if rank_of(weight) - rank_of(source) not in (0, 1):
        return None
    kernel = _kernel(weight)
    number = len(kernel)
    stride = sizes_of(a("stride"), number)
    tiles = (
        rank_of(source) == rank_of(weight)  # an image without a batch would need other moves
        and stride == kernel
        and not any(sizes_of(a("padding"), number))
        and not any(sizes_of(a("output_padding"), number))
        and (set(sizes_of(a("dilation"), number)) == {1})
    )
    spec = ConvTranspose(int(a("groups")), tiles, stride if tiles else ())
    return spec, (source, weight, a("bias"))


def norms(node: Node, name: str, a: Arguments) -> Described | None:
    """BatchNorm and InstanceNorm."""
    if name == "layer_norm" and len(a("normalized_shape")) == 1 and a("weight") is not None:
        return Rescaled(-1), (a("input"), a("weight"), a("bias"))
    if name == "group_norm" and a("weight") is not None:
        return Rescaled(1), (a("input"), a("weight"), a("bias"))
    if name in BATCH_NORMS:
        trains = bool(a.first("training", "train")) or "with_update" in name
        trains = (trains or name.endswith("_functional")) and name not in _NO_TRAINING
    elif name == "instance_norm":
        trains = bool(a("use_input_stats"))
    else:
        return None
    mean, var = a("running_mean"), a("running_var")
    untracked = mean is None or var is None
    why, hint = (_UNTRACKED, _TRACK_HINT) if untracked else (_TRAINS, _EVAL_HINT)
    if name == "instance_norm" and trains:
        why = _ALONE
    spec = Norm(float(a.first("eps", "epsilon")), trains or untracked, why, hint)
    return spec, (a("input"), a("weight"), a("bias"), mean, var)


def elementwise(node: Node, name: str, a: Arguments) -> Described | None:
    """Sums, products and rectifiers."""
    first, second = (*node.args, None, None)[:2]
    if name in ("add", "sub", "rsub"):
        alpha = a("alpha", 1)
        if not isinstance(alpha, (int, float)) or not alpha:
            return None
        factors = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[name]
        return Add(factors), (first, second)
    if name == "lerp" and isinstance(a("weight"), float) and a("weight") not in (0.0, 1.0):
        return Add((1.0 - a("weight"), a("weight"))), (first, second)
    if name in ("mul", "multiply"):
        return Mul(), (first, second)
    if name in ("div", "divide", "true_divide") and a("rounding_mode") is None:
        return Mul(divides=True), (first, second)
    if name == "neg":
        return Mul(), (first, -1)
    if name in ("clamp", "clamp_min") and a("min") == 0 and a("max") is None:
        return Rectifier(name), (first,)
    if name in ("relu", "leaky_relu", "prelu", "abs") or (
        name == "rrelu" and a("training") is False
    ):
        return Rectifier(name), (first,)
    return None
