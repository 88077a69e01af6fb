"""What ONNX optimisers test their BatchNorm folding on, as models of ours.

Of onnxoptimizer (fuse_bn_into_conv, fuse_pad_into_conv, fuse_add_bias_into_conv, adjust_add,
fuse_einsum_into_matmul ...), onnxscript (fuse_batchnorm, fuse_conv_affine, fuse_pad_into_conv),
OnnxSlim (convbn, convtransposebn, gemm, padconv) and AIMET: what each builds, not how.

A case is written in ONNX's own text: https://onnx.ai/onnx/repo-docs/Syntax.html. Its weights are
random by their names: `bn.gamma`, `.beta`, `.mean`, `.var` and any other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser


@dataclass(frozen=True)
class Case:
    """Nodes in ONNX's text, the shape of x, the shapes (or numbers) of weights, what must stay."""

    nodes: str
    shape: tuple[Any, ...] = ("N", 3, 6, 6)
    weights: Mapping[str, Any] | None = None
    channels: int = 4
    kept: int = 0
    reason: str = ""
    norms: str = "batch"
    opset: int = 17
    outputs: tuple[str, ...] = ("y",)
    inputs: Mapping[str, tuple[Any, ...]] | None = None
    positive: bool = False
    scale_only: bool = False


_W: dict[str, Any] = {"w": (4, 3, 3, 3)}
_BN = "BatchNormalization (c, gamma, beta, mean, var)"
CASES: dict[str, Case] = {}

# ------------------------------------------------- onnxoptimizer, onnxscript, OnnxSlim: linear, bn
for _bias, _group in itertools.product((False, True), (1, 2)):
    _b, _extra = (", b", {"b": (4,)}) if _bias else ("", {})
    _name = f"group {_group}{' bias' if _bias else ''}"
    CASES |= {
        f"conv bn, {_name}": Case(
            f"c = Conv <group={_group}> (x, w{_b}) y = {_BN}", ("N", 4, 6, 6),
            {"w": (4, 4 // _group, 3, 3), **_extra},
        ),
        f"convtranspose bn, {_name}": Case(
            f"c = ConvTranspose <group={_group}> (x, w{_b}) y = {_BN}", ("N", 4, 6, 6),
            {"w": (4, 4 // _group, 3, 3), **_extra},
        ),
    }  # fmt: skip
for _bias, _trans in itertools.product((False, True), (0, 1)):
    _b, _extra = (", b", {"b": (4,)}) if _bias else ("", {})
    CASES[f"gemm bn, transB {_trans}{' bias' if _bias else ''}"] = Case(
        f"c = Gemm <transB={_trans}> (x, w{_b}) y = {_BN}", ("N", 5),
        {"w": (4, 5) if _trans else (5, 4), **_extra},
    )  # fmt: skip
CASES |= {
    "invalid convtranspose, three groups of four channels": Case(
        f"c = ConvTranspose <group=3> (x, w) y = {_BN}", ("N", 4, 6, 6), {"w": (4, 4, 3, 3)},
        channels=12, kept=1,
    ),
    "weights are inputs": Case(
        f"c = Conv(x, w, b) y = {_BN}", weights={}, inputs={"w": (4, 3, 3, 3), "b": (4,)}, kept=1,
        reason="the weight of c (Conv) is an input",
    ),
    "a weight is an input": Case(
        f"c = Conv(x, w) y = {_BN}", weights={}, inputs={"w": (4, 3, 3, 3)}, kept=1,
        reason="the weight of c (Conv) is an input",
    ),
    "two pairs behind one pool": Case(
        "p = MaxPool <kernel_shape=[3, 3]> (x) c = Conv(p, w) d = Conv(p, v)"
        f" y = {_BN} z = BatchNormalization (d, gamma, beta, mean, var)",
        weights=_W | {"v": (4, 3, 2, 2)}, outputs=("y", "z"),
    ),
    "two pairs share their weight": Case(
        f"c = Conv(x, w, b) d = Conv(u, w, b) n = {_BN}"
        " m = BatchNormalization (d, gamma, beta, mean, var) y = Add(n, m)",
        weights=_W | {"b": (4,)}, inputs={"u": ("N", 3, 6, 6)},
    ),
    "conv bn conv bn": Case(
        f"c = Conv(x, w) m = {_BN} d = Conv(m, v)"
        " y = BatchNormalization (d, gamma, beta, mean, var)",
        weights=_W | {"v": (4, 4, 3, 3)},
    ),
    "conv of a constant scalar added, bn": Case(
        f"d = Conv(x, w) c = Add(d, s) y = {_BN}", weights=_W | {"s": ()}
    ),
    "conv, add (1,)": Case(f"d = Conv(x, w) c = Add(d, s) y = {_BN}", weights=_W | {"s": (1,)}),
    "conv, add (C, 1, 1)": Case(
        f"d = Conv(x, w) c = Add(d, s) y = {_BN}", weights=_W | {"s": (4, 1, 1)}
    ),
    "conv, add (1, C, 1, 1)": Case(
        f"d = Conv(x, w) c = Add(s, d) y = {_BN}", weights=_W | {"s": (1, 4, 1, 1)}
    ),
    "conv, add along the width": Case(
        f"d = Conv(x, w) c = Add(d, s) y = {_BN}", weights=_W | {"s": (4,)}
    ),
    "conv, add at every place": Case(
        f"d = Conv(x, w) c = Add(d, s) y = {_BN}", weights=_W | {"s": (1, 4, 4, 4)}
    ),
    "conv with a computed weight": Case(
        f"v = Sub(w, u) c = Conv(x, v) y = {_BN}", weights=_W | {"u": (4, 3, 3, 3)}
    ),
    "conv, mul (1, C, 1, 1)": Case(
        f"d = Conv(x, w) c = Mul(d, s) y = {_BN}", weights=_W | {"s": (1, 4, 1, 1)}
    ),
    "conv, mul, add: a norm of its own": Case(
        "d = Conv(x, w) m = Mul(d, s) y = Add(m, t)",
        weights=_W | {"s": (1, 4, 1, 1), "t": (1, 4, 1, 1)},
    ),
    "mul, add, conv": Case(
        "m = Mul(x, s) n = Add(m, t) y = Conv(n, w)",
        weights=_W | {"s": (1, 3, 1, 1), "t": (1, 3, 1, 1)},
    ),
    "mul, add, padded conv": Case(
        "m = Mul(x, s) n = Add(m, t) y = Conv <pads=[1, 1, 1, 1]> (n, w)",
        weights=_W | {"s": (1, 3, 1, 1), "t": (1, 3, 1, 1)}, kept=1, reason="pads with zeros",
    ),
    "convtranspose, add, bn": Case(
        f"d = ConvTranspose <strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]> (x, w)"
        f" c = Add(d, s) y = {_BN}", weights={"w": (3, 4, 3, 3), "s": (1, 4, 1, 1)},
    ),
    "convtranspose, mul, bn": Case(
        f"d = ConvTranspose(x, w) c = Mul(d, s) y = {_BN}",
        weights={"w": (3, 4, 3, 3), "s": (1, 4, 1, 1)},
    ),
    "matmul, add, bn": Case(
        f"d = MatMul(x, w) c = Add(d, s) y = {_BN}", ("N", 5), {"w": (5, 4), "s": (4,)}
    ),
    "matmul, add of a row, bn": Case(
        f"d = MatMul(x, w) c = Add(s, d) y = {_BN}", (3, 5), {"w": (5, 4), "s": (1, 4)}
    ),
    "matmul, add of a matrix, bn": Case(
        f"d = MatMul(x, w) c = Add(s, d) y = {_BN}", (3, 5), {"w": (5, 4), "s": (3, 4)}
    ),
    "matmul of three axes, bn of a transpose": Case(
        f"d = MatMul(x, w) c = Transpose <perm=[0, 2, 1]> (d) y = {_BN}", ("N", 3, 5), {"w": (5, 4)}
    ),
    "gemm, reshape, add, bn": Case(
        f"d = Gemm(x, w) e = Reshape(d, sizes) c = Add(e, s) y = {_BN}", ("N", 5),
        {"w": (5, 8), "sizes": np.array([-1, 4, 2]), "s": (4, 1)},
    ),
    "gemm, mul, bn": Case(
        f"d = Gemm <alpha=0.5, beta=2.0> (x, w, b) c = Mul(d, s) y = {_BN}", ("N", 5),
        {"w": (5, 4), "b": (4,), "s": (4,)},
    ),
    "gemm of a transposed input": Case(
        f"c = Gemm <transA=1> (x, w) y = {_BN}", (5, 3), {"w": (5, 4)}
    ),
    "einsum bn": Case(f"c = Einsum <equation=\"bij,jk->bki\"> (x, w) y = {_BN}", ("N", 3, 5),
                      {"w": (5, 4)}),
    "einsum for each head bn": Case(
        f"e = Einsum <equation=\"bhti,hio->bhot\"> (x, w) c = Reshape(e, sizes) y = {_BN}",
        ("N", 2, 3, 5), {"w": (2, 5, 2), "sizes": np.array([0, 4, 3])},
    ),
    "bn einsum of two axes": Case(
        f"c = Identity(x) n = {_BN} y = Einsum <equation=\"bct,cto->bo\"> (n, w)", ("N", 4, 3),
        {"w": (4, 3, 5)},
    ),
    "matmul of a weight for each sample of two": Case(
        f"d = MatMul(x, w) c = Transpose <perm=[0, 2, 1]> (d) y = {_BN}", (2, 3, 5),
        {"w": (2, 5, 4)},
    ),
    "matmul of a repeated weight": Case(
        f"v = Expand(w, sizes) d = MatMul(x, v) c = Transpose <perm=[0, 2, 1]> (d) y = {_BN}",
        (2, 3, 5), {"w": (1, 5, 4), "sizes": np.array([2, 1, 1])},
    ),
    "matmul of a weight repeated for each sample": Case(
        f"i = Shape <start=0, end=1> (x) s = Concat <axis=0> (i, rest) v = Expand(w, s)"
        f" d = MatMul(x, v) c = Transpose <perm=[0, 2, 1]> (d) y = {_BN}",
        ("N", 3, 5), {"w": (1, 5, 4), "rest": np.array([5, 4])},
    ),
    # ------------------------------------------------------------------------------------ padding
    "pad, conv, bn": Case(
        f"p = Pad(x, pads) c = Conv(p, w) y = {_BN}",
        weights=_W | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    ),
    "bn, pad, conv": Case(
        f"c = Identity(x) n = {_BN} p = Pad(n, pads) y = Conv(p, w)",
        weights=_W | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, channels=3, kept=1,
        reason="pads with 0",
    ),
    "bn, reflect, conv": Case(
        f"c = Identity(x) n = {_BN} p = Pad <mode=\"reflect\"> (n, pads) y = Conv(p, w)",
        weights=_W | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, channels=3,
    ),
    "bn, edge, conv": Case(
        f"c = Identity(x) n = {_BN} p = Pad <mode=\"edge\"> (n, pads) y = Conv(p, w)",
        weights=_W | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, channels=3,
    ),
    "bn, negative pad, conv": Case(
        f"c = Identity(x) n = {_BN} p = Pad(n, pads) y = Conv(p, w)",
        weights=_W | {"pads": np.array([0, 0, -1, -1, 0, 0, -1, -1])}, channels=3,
    ),
    "bn, pad of channels, conv": Case(
        f"c = Identity(x) n = {_BN} p = Pad(n, pads) y = Conv(p, w)",
        weights={"w": (4, 4, 3, 3), "pads": np.array([0, 1, 0, 0, 0, 0, 0, 0])}, channels=3,
    ),
    "conv, pad, bn": Case(
        f"d = Conv(x, w) c = Pad(d, pads) y = {_BN}",
        weights=_W | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, kept=1, reason="pads with 0",
    ),
    "bn, conv with auto_pad": Case(
        f"c = Identity(x) n = {_BN} y = Conv <auto_pad=\"SAME_UPPER\"> (n, w)", weights=_W,
        channels=3, kept=1, reason="pads with zeros",
    ),
    "bn, conv with auto_pad VALID": Case(
        f"c = Identity(x) n = {_BN} y = Conv <auto_pad=\"VALID\"> (n, w)", weights=_W, channels=3,
    ),
    "conv, average of a padded map, bn": Case(
        f"d = Conv(x, w) c = AveragePool <kernel_shape=[3, 3], pads=[1, 1, 1, 1],"
        f" count_include_pad=1> (d) y = {_BN}", weights=_W, kept=1,
        reason="counts zeros beyond the border",
    ),
    "conv, average, bn": Case(
        f"d = Conv(x, w) c = AveragePool <kernel_shape=[2, 2], strides=[2, 2]> (d) y = {_BN}",
        weights=_W,
    ),
    "conv, global average, flatten, bn": Case(
        f"d = Conv(x, w) e = GlobalAveragePool(d) c = Flatten(e) y = {_BN}", weights=_W,
    ),
    "conv, reduce mean, bn": Case(
        f"d = Conv(x, w) c = ReduceMean <axes=[2, 3], keepdims=0> (d) y = {_BN}", weights=_W,
        opset=13,
    ),
    "bn, reshape, gemm": Case(
        f"c = Identity(x) n = {_BN} f = Flatten(n) y = Gemm(f, w)", weights={"w": (108, 4)},
        channels=3,
    ),
    "bn, transpose, reshape, matmul": Case(
        f"c = Identity(x) n = {_BN} t = Transpose <perm=[0, 2, 3, 1]> (n) f = Flatten(t)"
        " y = MatMul(f, w)", weights={"w": (108, 4)}, channels=3,
    ),
    "conv, concat, bn": Case(
        f"d = Conv(x, w) e = Conv(x, v) c = Concat <axis=1> (d, e) y = {_BN}",
        weights={"w": (2, 3, 3, 3), "v": (2, 3, 3, 3)},
    ),
    "conv, slice, bn": Case(
        f"d = Conv(x, w) c = Slice(d, starts, ends, axes) y = {_BN}",
        weights={"w": (6, 3, 3, 3), "starts": np.array([1]), "ends": np.array([5]),
                 "axes": np.array([1])},
    ),
    "conv, split, bn": Case(
        f"d = Conv(x, w) c, z = Split <axis=1> (d, parts) y = {_BN}", outputs=("y", "z"),
        weights={"w": (6, 3, 3, 3), "parts": np.array([4, 2])},
    ),
    "conv, unsqueeze, squeeze, bn": Case(
        f"d = Conv(x, w) e = Unsqueeze(d, axes) c = Squeeze(e, axes) y = {_BN}",
        weights=_W | {"axes": np.array([2])},
    ),
    "conv, resize, bn": Case(
        f"d = Conv(x, w) c = Resize <mode=\"linear\"> (d, , scales) y = {_BN}",
        weights=_W | {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "conv, depth to space, bn": Case(
        f"d = Conv(x, w) c = DepthToSpace <blocksize=2> (d) y = {_BN}",
        weights={"w": (16, 3, 3, 3)},
    ),
    "conv, dropout, bn": Case(f"d = Conv(x, w) c = Dropout(d) y = {_BN}", weights=_W),
    "conv, cast, bn": Case(f"d = Conv(x, w) c = Cast <to=11> (d) y = {_BN}", weights=_W),
    "conv, relu, bn": Case(
        f"d = Conv(x, w) c = Relu(d) y = {_BN}", weights=_W, kept=1, reason="only a positive scale"
    ),
    "conv, relu, scale": Case(
        f"d = Conv(x, w) c = Relu(d) y = {_BN}", weights=_W, positive=True, scale_only=True
    ),
    "conv, prelu, scale": Case(
        f"d = Conv(x, w) c = PRelu(d, s) y = {_BN}", weights=_W | {"s": (4, 1, 1)}, positive=True,
        scale_only=True,
    ),
    "relu, bn, conv": Case(
        f"c = Relu(x) n = {_BN} y = Conv(n, w)", weights=_W, channels=3,
    ),
    "scale, relu, constant, padded conv": Case(
        f"c = Identity(x) n = {_BN} r = Relu(n) a = Add(r, s) y = Conv <pads=[1, 1, 1, 1]> (a, w)",
        weights=_W | {"s": (3, 1, 1)}, channels=3, positive=True, scale_only=True,
    ),
    "bn, constant, padded conv": Case(
        f"c = Identity(x) n = {_BN} a = Sub(s, n) y = Conv <pads=[1, 1, 1, 1]> (a, w)",
        weights=_W | {"s": (3, 6, 6)}, channels=3, positive=True,
    ),
    "bn of an output": Case(
        f"c = Conv(x, w) y = {_BN}", weights=_W, outputs=("c", "y"), kept=1, reason="an output"
    ),
    "bn alone": Case(f"c = Identity(x) y = {_BN}", channels=3, kept=1, reason="input of the model"),
    "conv and its bn added": Case(
        f"c = Conv(x, w) n = {_BN} y = Add(n, c)", weights=_W
    ),
    "two bns of one conv": Case(
        f"c = Conv(x, w) n = {_BN} m = BatchNormalization <epsilon=0.125> (c, s, t, u, v)"
        " y = Add(n, m)", weights=_W | {"s": (4,), "t": (4,), "u": (4,), "v": (4,)},
    ),
    "dynamic matmul bn": Case(
        f"t = Transpose <perm=[0, 2, 1]> (x) c = MatMul(t, x) y = {_BN}", ("N", 3, 4), kept=1,
        reason="moves no affine map",
    ),
    "instance norm bn": Case(
        f"c = InstanceNormalization(x, s, b) y = {_BN}", weights={"s": (3,), "b": (3,)}, channels=3,
        kept=1, reason="its own statistics",
    ),
    "layer norm bn": Case(
        f"d = LayerNormalization(x, s, b) c = Transpose <perm=[0, 2, 1]> (d) y = {_BN}",
        ("N", 3, 4), weights={"s": (4,), "b": (4,)},
    ),
    "layer norm of two axes, flatten, gemm": Case(
        "d = LayerNormalization <axis=1> (x, s, b) f = Flatten(d) y = Gemm(f, w)", ("N", 3, 4),
        weights={"s": (3, 4), "b": (3, 4), "w": (12, 4)}, norms="all",
    ),
    "group norm conv": Case(
        "d = GroupNormalization <num_groups=1> (x, s, b) y = Conv(d, w)",
        weights={"s": (3,), "b": (3,), "w": (4, 3, 3, 3)}, norms="all", opset=21,
    ),
    "weight norm": Case(
        "n = ReduceL2 <axes=[1, 2, 3]> (weight_v) d = Div(weight_v, n) w = Mul(d, weight_g)"
        " y = Conv(x, w)", norms="all", opset=13,
        weights={"weight_v": (4, 3, 3, 3), "weight_g": (4, 1, 1, 1)},
    ),
    "spectral norm, bn": Case(
        "r = Reshape(weight_orig, sizes) a = MatMul(r, weight_v) s = MatMul(weight_u, a)"
        f" w = Div(weight_orig, s) c = Conv(x, w) y = {_BN}", norms="all", opset=13,
        weights={"weight_orig": (4, 3, 3, 3), "weight_u": (4,), "weight_v": (27,),
                 "sizes": np.array([4, 27])},
    ),
    "instance norm padded conv": Case(
        "d = InstanceNormalization(x, s, b) y = Conv <pads=[1, 1, 1, 1]> (d, w)",
        weights={"s": (3,), "b": (3,), "w": (4, 3, 3, 3)}, norms="all",
    ),
}  # fmt: skip

# ------------------------------------------------------------------------------------- recurrent
for _kind, _gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    for _ways, _bias in itertools.product(("forward", "reverse", "bidirectional"), (True, False)):
        _d = 2 if _ways == "bidirectional" else 1
        _own = {"b": (_d, 2 * _gates * 3)} if _bias else {}
        CASES[f"bn {_kind} {_ways}{' bias' if _bias else ''}"] = Case(
            "c = Identity(x) n = BatchNormalization (c, gamma, beta, mean, var)"
            f" t = Transpose <perm=[2, 0, 1]> (n) y = {_kind} <hidden_size=3,"
            f" direction=\"{_ways}\"> (t, w, r{', b' if _bias else ''})",
            ("N", 4, 5), {"w": (_d, _gates * 3, 4), "r": (_d, _gates * 3, 3), **_own},
        )  # fmt: skip
CASES |= {
    "bn GRU, linear_before_reset": Case(
        "c = Identity(x) n = BatchNormalization (c, gamma, beta, mean, var)"
        " t = Transpose <perm=[2, 0, 1]> (n)"
        " y, z = GRU <hidden_size=3, linear_before_reset=1> (t, w, r, b)",
        ("N", 4, 5), {"w": (1, 9, 4), "r": (1, 9, 3), "b": (1, 18)}, outputs=("y", "z"),
    ),
    "GRU bn": Case(
        "d, h = GRU <hidden_size=4> (x, w, r) e = Squeeze(d, axes)"
        f" c = Transpose <perm=[1, 2, 0]> (e) y = {_BN}",
        (3, "N", 5), {"w": (1, 12, 5), "r": (1, 12, 4), "axes": np.array([1])}, kept=1,
        reason="moves no affine map",
    ),
    "LSTM whose weight is an input": Case(
        "c = Identity(x) n = BatchNormalization (c, gamma, beta, mean, var)"
        " t = Transpose <perm=[2, 0, 1]> (n) y = LSTM <hidden_size=3> (t, w, r)",
        ("N", 4, 5), {"r": (1, 12, 3)}, inputs={"w": (1, 12, 4)}, kept=1,
        reason="is an input of the model",
    ),
    "LSTM with lengths and a state": Case(
        "c = Identity(x) n = BatchNormalization (c, gamma, beta, mean, var)"
        " t = Transpose <perm=[2, 0, 1]> (n)"
        " y, h, z = LSTM <hidden_size=3> (t, w, r, b, , u, u)",
        (2, 4, 5), {"w": (1, 12, 4), "r": (1, 12, 3), "b": (1, 24)}, inputs={"u": (1, 2, 3)},
        outputs=("y", "z"),
    ),
    "two LSTMs of one bn": Case(
        "c = Identity(x) n = BatchNormalization (c, gamma, beta, mean, var)"
        " t = Transpose <perm=[2, 0, 1]> (n) y = LSTM <hidden_size=3> (t, w, r)"
        " z = LSTM <hidden_size=3> (t, w, r, b)",
        ("N", 4, 5), {"w": (1, 12, 4), "r": (1, 12, 3), "b": (1, 24)}, outputs=("y", "z"),
    ),
}  # fmt: skip

# ----------------------------------------------------------------------------- before opset 7
for _opset, _kind in itertools.product((1, 6), ("Add", "Mul", "Sub", "Div")):
    CASES[f"conv, {_kind} with axis and broadcast, bn, opset {_opset}"] = Case(
        f"d = Conv(x, w) c = {_kind} <axis=1, broadcast=1> (d, s) y = BatchNormalization"
        f" <is_test=1{', consumed_inputs=[0, 0, 0, 1, 1]' if _opset == 1 else ''}>"
        " (c, gamma, beta, mean, var)",
        weights=_W | {"s": (4,)}, opset=_opset,
    )  # fmt: skip
CASES["mul and add with axis and broadcast: a norm of its own"] = Case(
    "d = Conv(x, w) m = Mul <axis=1, broadcast=1> (d, s) y = Add <axis=1, broadcast=1> (m, t)",
    weights=_W | {"s": (4,), "t": (4,)}, opset=6,
)  # fmt: skip
CASES["concat with a constant, opset 6"] = Case(
    "d = Conv(x, w) c = Concat <axis=1> (d, s)"
    " y = BatchNormalization <is_test=1> (c, gamma, beta, mean, var)", (2, 3, 6, 6),
    weights={"w": (2, 3, 3, 3), "s": (2, 2, 4, 4)}, opset=6,
)  # fmt: skip
CASES["a sum of one shape, then a padded conv, opset 6"] = Case(
    "n = BatchNormalization <is_test=1> (x, gamma, beta, mean, var) r = Add(n, s)"
    " y = Conv <pads=[1, 1, 1, 1]> (r, w)", (1, 3, 4, 4),
    weights={"w": (2, 3, 3, 3), "s": (1, 3, 4, 4)}, channels=3, opset=6, positive=True,
)  # fmt: skip
CASES["add with an axis in the middle of the shape"] = Case(
    "d = Conv(x, w) c = Add <axis=1, broadcast=1> (d, s)"
    " y = BatchNormalization <is_test=1> (c, gamma, beta, mean, var)",
    weights=_W | {"s": (4, 4)}, opset=6,
)  # fmt: skip


_BEFORE = "c = Identity(x) n = BatchNormalization(c, gamma, beta, mean, var)"
_LSTM = f"{_BEFORE} t = Transpose <perm=[2, 0, 1]> (n) y = LSTM <hidden_size=3>"
#: Models whose sizes contradict one another: nothing goes, and nothing fails.
INVALID: dict[str, Case] = {
    "gemm": Case(f"{_BEFORE} y = Gemm(n, w)", ("N", 4), {"w": (6, 4)}),
    "conv": Case(f"{_BEFORE} y = Conv(n, w)", weights={"w": (4, 5, 3, 3)}, channels=3),
    "bias of a conv": Case(f"c = Conv(x, w, b) y = {_BN}", weights=_W | {"b": (7,)}),
    "bias of a gemm": Case(f"c = Gemm(x, w, b) y = {_BN}", ("N", 5), {"w": (5, 4), "b": (3,)}),
    "einsum": Case(
        f"{_BEFORE} y = Einsum <equation=\"bct,cto->bo\"> (n, w)", (3, 4, 4), {"w": (5, 4, 5)}
    ),
    "matmul": Case(f"{_BEFORE} y = MatMul(n, w)", (3, 4, 4), {"w": (2, 4, 5)}),
    "norm": Case(
        f"c = Einsum <equation=\"bi,io->bo\"> (x, w) y = {_BN}", (3, 5), {"w": (5, 6)}
    ),
    "scale of a norm": Case(
        "c = Conv(x, w) y = BatchNormalization(c, g, beta, mean, var)", weights=_W | {"g": (7,)}
    ),
    "shift of an instance norm": Case(
        f"c = InstanceNormalization(x, s, b) y = {_BN}", weights={"s": (3,), "b": (2,)},
        channels=3,
    ),
    "scale of a group norm": Case(
        f"c = GroupNormalization <num_groups=3> (x, s, b) y = {_BN}", ("N", 4, 5),
        {"s": (7,), "b": (4,)}, opset=21, norms="all",
    ),
    "flat weight of a recurrent layer": Case(
        f"{_LSTM} (t, w, r)", ("N", 4, 5), {"w": (12, 4), "r": (1, 12, 3)}
    ),
    "weight of a recurrent layer": Case(
        f"{_LSTM} (t, w, r)", ("N", 4, 5), {"w": (1, 12, 7), "r": (1, 12, 3)}
    ),
    "flat bias of a recurrent layer": Case(
        f"{_LSTM} (t, w, r, b)", ("N", 4, 5), {"w": (1, 12, 4), "r": (1, 12, 3), "b": (24,)}
    ),
    "bias of a recurrent layer": Case(
        f"{_LSTM} (t, w, r, b)", ("N", 4, 5), {"w": (1, 12, 4), "r": (1, 12, 3), "b": (1, 7)}
    ),
    "sum before opset 7": Case(
        "d = Conv(x, w) c = Add <axis=1, broadcast=1> (d, s)"
        " y = BatchNormalization <is_test=1> (c, gamma, beta, mean, var)",
        weights=_W | {"s": (5,)}, opset=6,
    ),
}  # fmt: skip


def model_of(case: Case) -> onnx.ModelProto:
    """The model of a case."""
    weights = _weights(case)
    given = {"x": case.shape, **(case.inputs or {})}
    infos = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)
        for name, shape in given.items()
    ]
    nodes = parser.parse_graph(f"g () => () {{ {case.nodes} }}").node
    results = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in case.outputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", infos, results, tensors)
    opset = [helper.make_opsetid("", case.opset)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    known = onnx.shape_inference.infer_shapes(made).graph.output
    made.graph.ClearField("output")
    made.graph.output.extend(known)
    return made


def _weights(case: Case) -> dict[str, Any]:
    """30 % negative scales, one of 0, a variance of 0, where nothing forbids them."""
    rng = np.random.default_rng(0)
    sign = np.where(rng.random(case.channels) < 0.3, -1, 1) if not case.positive else 1
    gamma = rng.uniform(0.3, 1.5, case.channels) * sign
    if not case.positive:
        gamma[0], gamma[-1] = 0.0, -0.8
    shift = 0.0 if case.scale_only else 1.0
    made: dict[str, Any] = {
        "gamma": gamma,
        "beta": rng.normal(0.4, 1, case.channels) * shift,
        "mean": rng.normal(0.4, 1, case.channels) * shift,
        "var": rng.uniform(0.3, 2.5, case.channels),
    }
    made["var"][1] = 0.0
    made = {name: array.astype(np.float64) for name, array in made.items() if name in case.nodes}
    for name, given in (case.weights or {}).items():
        if isinstance(given, np.ndarray):
            made[name] = given
        else:
            made[name] = np.asarray(rng.uniform(0.2, 1.2, given)).astype(np.float64)
    return made
