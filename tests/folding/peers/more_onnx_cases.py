"""ONNX cases beyond those of others: means, extremes, orders, weights that are repeated."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.folding.peers.onnx_cases import Case

_W: dict[str, Any] = {"w": (4, 3, 3, 3)}
_TWO: dict[str, Any] = {"w": (4, 3, 3, 3), "v": (4, 3, 3, 3)}
_BN = "BatchNormalization (c, gamma, beta, mean, var)"
_BEFORE = "c = Identity(x) n = BatchNormalization(c, gamma, beta, mean, var)"
_LAYER: dict[str, Any] = {"w": (12, 4), "s": (3, 4), "b": (3, 4)}
_ROUND = "turns the order of its numbers round"
CASES: dict[str, Case] = {
    "a constant first operand of Gemm": Case(
        f"c = Gemm(w, x) y = {_BN}", (5, 4), {"w": (3, 5)}, kept=1,
        reason="the second operand of c (Gemm) is an input",
    ),
    "bn as the bias of Gemm": Case(
        f"{_BEFORE} y = Gemm(u, w, n)", (5, 4), {"w": (3, 4)}, inputs={"u": (5, 3)}, kept=1,
        reason="it is the bias of y (Gemm)",
    ),
    "conv, at most a number, bn": Case(
        f"d = Conv(x, w) c = Clip(d, , high) y = {_BN}", weights=_W | {"high": np.array(0.1)},
        positive=True,
    ),
    "bn, at least a number of old form, conv": Case(
        f"{_BEFORE} d = Clip <min=0.25> (n) y = Conv(d, w)", weights=_W, channels=3, positive=True,
        opset=10,
    ),
    "bn, at most a number and at least minus infinity, conv": Case(
        f"{_BEFORE} d = Clip(n, low, high) y = Conv(d, w)", channels=3, positive=True,
        weights=_W | {"low": np.array(-np.inf), "high": np.array(0.5)},
    ),
    "bn, between two numbers, conv": Case(
        f"{_BEFORE} d = Clip(n, low, high) y = Conv(d, w)", channels=3, positive=True, kept=1,
        weights=_W | {"low": np.array(-0.5), "high": np.array(0.5)}, reason="moves no affine map",
    ),
    "bn, some columns, conv": Case(
        f"{_BEFORE} d = Compress <axis=3> (n, k) y = Conv(d, w)", channels=3,
        weights=_W | {"k": np.array([True, False, True, True, False, True])},
    ),
    "conv, some channels, bn": Case(
        f"d = Conv(x, w) c = Compress <axis=1> (d, k) y = {_BN}",
        weights={"w": (6, 3, 3, 3), "k": np.array([True, False, True, True, False, True])},
    ),
    "bn, places by their order, conv": Case(
        f"{_BEFORE} v, i = TopK <axis=3> (x, k) d = GatherElements <axis=3> (n, i)"
        " y = Conv(d, w)", weights=_W | {"k": np.array([3])}, channels=3,
    ),
    "bn, channels by their order, conv": Case(
        f"{_BEFORE} v, i = TopK <axis=1> (x, k) d = GatherElements <axis=1> (n, i)"
        " y = Conv(d, w)", weights=_W | {"k": np.array([3])}, channels=3, kept=1,
        reason="picks channels that are not known",
    ),
    "bn, some channels, conv": Case(
        f"{_BEFORE} d = Compress <axis=1> (n, k) y = Conv(d, w)", ("N", 4, 6, 6),
        weights={"w": (4, 3, 3, 3), "k": np.array([True, False, True, True])},
    ),
    "bn, some channels in another order, conv": Case(
        f"{_BEFORE} d = Compress <axis=-3> (n, k) e = Gather <axis=1> (d, i) y = Conv(e, w)",
        ("N", 4, 6, 6),
        weights={"w": (4, 3, 3, 3), "k": np.array([True, False, True, True]),
                 "i": np.array([2, 0, -2])},
    ),
    "conv, the same channels at all places, bn": Case(
        "d = Conv(x, w) s = Shape(d) j = Expand(i, s) c = GatherElements <axis=1> (d, j)"
        f" y = {_BN}",
        weights=_W | {"i": np.array([2, 0, -1, 1]).reshape(4, 1, 1)},
    ),
    "bn, one channel many times, conv": Case(
        f"{_BEFORE} s = Shape(n) j = Expand(i, s) d = GatherElements <axis=1> (n, j)"
        " y = Conv(d, w)", ("N", 4, 6, 6), {"w": (4, 4, 3, 3), "i": np.array([[[-2]]])},
    ),
    "conv, the same channels of the first rows, bn": Case(
        f"d = Conv(x, w) c = GatherElements <axis=1> (d, i) y = {_BN}", (2, 3, 6, 6),
        weights=_W | {"i": np.tile(np.array([3, 1, 0, 0])[:, None, None], (2, 1, 3, 4))},
        positive=True, kept=1, reason="repeats its channels, and their scales differ",
    ),
    "conv, other channels at each place, bn": Case(
        "d = Conv(x, w) s = Shape(d) j = Expand(i, s) c = GatherElements <axis=1> (d, j)"
        f" y = {_BN}",
        weights=_W | {"i": np.array([[0, 1], [1, 0], [2, 2], [3, 3]]).repeat(2, 1)[:, None]},
        kept=1, reason="does not pick the same channels at all places",
    ),
    "conv, all channels reversed, bn": Case(
        f"d = Conv(x, w) t = Transpose <perm=[1, 2, 3, 0]> (d) r = ReverseSequence(t, l)"
        f" c = Transpose <perm=[3, 0, 1, 2]> (r) y = {_BN}", weights=_W | {"l": np.array([3] * 4)},
    ),
    "conv, channels reversed as far as each row goes, bn": Case(
        f"d = Conv(x, w) t = Transpose <perm=[1, 2, 3, 0]> (d) r = ReverseSequence(t, l)"
        f" c = Transpose <perm=[3, 0, 1, 2]> (r) y = {_BN}",
        weights=_W | {"l": np.array([3, 4, 4, 4])}, kept=1,
        reason="does not pick the same channels at all places",
    ),
    "bn, reversed as far as each sample goes, conv": Case(
        f"{_BEFORE} t = Transpose <perm=[3, 0, 1, 2]> (n) r = ReverseSequence(t, l)"
        " d = Transpose <perm=[1, 2, 3, 0]> (r) y = Conv(d, w)", (2, 3, 6, 6),
        weights=_W | {"l": np.array([3, 6])}, channels=3,
    ),
    "attention, bn": Case(
        "v = MatMul(x, w) k = Transpose <perm=[0, 2, 1]> (x) s = MatMul(x, k) p = Softmax(s)"
        f" a = MatMul(p, v) c = Transpose <perm=[0, 2, 1]> (a) y = {_BN}", ("N", 5, 6),
        weights={"w": (6, 4)},
    ),
    "attention by a softmax over two axes, bn": Case(
        "v = MatMul(x, w) k = Transpose <perm=[0, 2, 1]> (x) s = MatMul(x, k) p = Softmax(s)"
        f" a = MatMul(p, v) c = Transpose <perm=[0, 2, 1]> (a) y = {_BN}", ("N", 5, 6),
        weights={"w": (6, 4)}, opset=11, kept=1, reason="a (MatMul) lies between",
    ),
    "a softmax behind what it weights, bn": Case(
        "v = MatMul(x, w) k = Transpose <perm=[0, 2, 1]> (x) s = MatMul(x, k) p = Softmax(s)"
        f" t = Transpose <perm=[0, 2, 1]> (v) c = MatMul(t, p) y = {_BN}", ("N", 5, 6),
        weights={"w": (6, 4)}, kept=1, reason="c (MatMul) lies between",
    ),
    "layer norm whose mean is read": Case(
        "n, m, d = LayerNormalization(x, s, b) p = MatMul(n, w) y = Add(p, m)", ("N", 3, 4),
        weights={"w": (4, 5), "s": (4,), "b": (4,)}, norms="all",
    ),
    "layer norm whose mean is read, bn": Case(
        f"c, m = LayerNormalization(x, s, b) n = {_BN} t = Tanh(n) y = Add(t, m)", ("N", 4),
        weights={"s": (4,), "b": (4,)},
    ),
    "group norm of opset 18, conv": Case(
        "n = GroupNormalization <num_groups=2> (x, s, b) y = Conv(n, w)", ("N", 4, 6, 6),
        weights={"w": (3, 4, 1, 1), "s": (2,), "b": (2,)}, norms="all", opset=18,
    ),
    "group norm of opset 20, padded conv": Case(
        "n = GroupNormalization <num_groups=2> (x, s, b) y = Conv <pads=[1, 1, 1, 1]> (n, w)",
        ("N", 4, 6, 6), weights={"w": (3, 4, 3, 3), "s": (2,), "b": (2,)}, norms="all", opset=20,
    ),
    "group norm of opset 18, bn": Case(
        f"c = GroupNormalization <num_groups=2> (x, s, b) y = {_BN}", ("N", 4, 6, 6),
        weights={"s": (2,), "b": (2,)}, opset=18, kept=1, reason="one number for each group",
    ),
    "a weight drawn at random": Case(
        f"v = RandomNormalLike(w) c = Conv(x, v) y = {_BN}", weights=_W, kept=1,
        reason="the weight of c (Conv) is drawn at random by v (RandomNormalLike)",
    ),
    "mean of two convs, bn": Case(
        f"d = Conv(x, w) e = Conv(x, v) c = Mean(d, e) y = {_BN}", weights=_TWO
    ),
    "mean of three, bn": Case(
        f"d = Conv(x, w) e = Conv(x, v) c = Mean(d, e, d) y = {_BN}", weights=_TWO
    ),
    "mean of one, bn": Case(f"d = Conv(x, w) c = Mean(d) y = {_BN}", weights=_W),
    "mean with a constant, bn": Case(
        f"d = Conv(x, w) c = Mean(d, s) y = {_BN}", weights=_W | {"s": (4, 1, 1)}
    ),
    "bn, mean with a constant, padded conv": Case(
        f"{_BEFORE} m = Mean(n, s, s) y = Conv <pads=[1, 1, 1, 1]> (m, w)", ("N", 3, 4, 4),
        weights=_W | {"s": (3, 4, 4)}, channels=3, positive=True,
    ),
    "largest of three convs, bn": Case(
        f"d = Conv(x, w) e = Conv(x, v) f = Abs(e) c = Max(d, e, f) y = {_BN}", weights=_TWO,
        kept=1, positive=True, reason="only a positive scale",
    ),
    "smallest of three, bn": Case(
        f"d = Conv(x, w) e = Conv(x, v) c = Min(d, s, e) y = {_BN}",
        weights=_TWO | {"s": (4, 1, 1)}, positive=True,
    ),
    "smallest of three, bn with negative scales": Case(
        f"d = Conv(x, w) e = Conv(x, v) c = Min(d, s, e) y = {_BN}",
        weights=_TWO | {"s": (4, 1, 1)}, kept=1, reason=_ROUND,
    ),
    "max of one, bn": Case(f"d = Conv(x, w) c = Max(d) y = {_BN}", weights=_W),
    "bn, max of a constant, conv": Case(
        f"{_BEFORE} m = Max(s, n) y = Conv(m, w)", weights=_W | {"s": (1, 3, 1, 1)}, channels=3,
        positive=True,
    ),
    "not above 0, scale": Case(
        f"d = Conv(x, w) c = Clip(d, , high) y = {_BN}", weights=_W | {"high": np.array(0.0)},
        positive=True, scale_only=True,
    ),
    "running sum, scale": Case(
        f"d = Conv(x, w) c = CumSum <exclusive=1, reverse=1> (d, axis) y = {_BN}",
        weights=_W | {"axis": np.array(-1)}, scale_only=True,
    ),
    "running sum, bn": Case(
        f"d = Conv(x, w) c = CumSum(d, axis) y = {_BN}", weights=_W | {"axis": np.array(2)}, kept=1,
        reason="a growing number",
    ),
    "topk, its places unread, bn": Case(
        f"d = Conv(x, w) c, i = TopK(d, k) y = {_BN}", weights=_W | {"k": np.array([2])},
        positive=True,
    ),
    "topk whose places alone are read": Case(
        f"c = Conv(x, w) y = {_BN} e, i = TopK(c, k)",
        weights=_W | {"k": np.array([2])}, kept=1, outputs=("y", "i"), positive=True,
        reason="also used by e (TopK)",
    ),
    "largest pool whose places are unread, bn": Case(
        f"d = Conv(x, w) c, i = MaxPool <kernel_shape=[2, 2]> (d) y = {_BN}", weights=_W,
        positive=True,
    ),
    "layer norm, its statistics unread, gemm": Case(
        "d, m, i = LayerNormalization(x, s, b) y = MatMul(d, w)", ("N", 3, 4),
        weights={"s": (4,), "b": (4,), "w": (4, 5)}, norms="all",
    ),
    "layer norm whose mean is an output": Case(
        "d, m, i = LayerNormalization(x, s, b) y = MatMul(d, w)", ("N", 3, 4),
        weights={"s": (4,), "b": (4,), "w": (4, 5)}, norms="all", outputs=("y", "m"),
    ),
    "layer norm with a row of scales, gemm": Case(
        "d = LayerNormalization <axis=1> (x, s, b) f = Flatten(d) y = MatMul(f, w)", ("N", 3, 4),
        weights=_LAYER | {"s": (4,)}, norms="all",
    ),
    "layer norm with a column of shifts, gemm": Case(
        "d = LayerNormalization <axis=1> (x, s, b) f = Flatten(d) y = MatMul(f, w)", ("N", 3, 4),
        weights=_LAYER | {"b": (3, 1)}, norms="all",
    ),
    "layer norm with rows, gemm": Case(
        "d = LayerNormalization <axis=1> (x, s, b) f = Flatten(d) y = MatMul(f, w)", ("N", 3, 4),
        weights=_LAYER | {"s": (4,), "b": (1, 4)}, norms="all",
    ),
    "layer norm with one scale, gemm": Case(
        "d = LayerNormalization(x, s, b) y = MatMul(d, w)", ("N", 3, 4),
        weights={"s": (1,), "b": (), "w": (4, 5)}, norms="all",
    ),
    "layer norm with a scale for each row, gemm": Case(
        "d = LayerNormalization(x, s, b) f = Flatten(d) y = MatMul(f, w)", ("N", 3, 4),
        weights=_LAYER | {"s": (3, 1), "b": (1, 3, 1)}, norms="all",
    ),
    "layer norm with a column of shifts, bn": Case(
        f"d = LayerNormalization(x, s, b) c = Transpose <perm=[0, 2, 1]> (d) y = {_BN}",
        ("N", 3, 4), weights={"s": (), "b": (3, 1)}, kept=1,
        reason="other axes than the channels",
    ),
    "rms norm with one scale, conv": Case(
        "d = RMSNormalization(x, s) t = Transpose <perm=[0, 2, 1]> (d) y = Conv(t, w)",
        ("N", 3, 4), weights={"s": (1,), "w": (2, 4, 1)}, norms="all", opset=23,
    ),
    "einsum with an ellipsis in the middle, bn": Case(
        'd = Einsum <equation="b...i,io->b...o"> (x, w) c = Transpose <perm=[0, 3, 1, 2]> (d)'
        f" y = {_BN}", ("N", 3, 2, 5), {"w": (5, 4)},
    ),
    "einsum with an ellipsis in both, bn": Case(
        'd = Einsum <equation="...i,...io->...o"> (x, w) c = Transpose <perm=[0, 2, 1]> (d)'
        f" y = {_BN}", ("N", 3, 5), {"w": (3, 5, 4)},
    ),
    "bn, einsum with an ellipsis behind": Case(
        f'{_BEFORE} y = Einsum <equation="oi,bi...->bo..."> (w, n)', ("N", 4, 3, 2), {"w": (5, 4)}
    ),
    "mean of three, opset 6": Case(
        "d = Conv(x, w) e = Conv(x, v) c = Mean(d, e, d)"
        " y = BatchNormalization <is_test=1> (c, gamma, beta, mean, var)", (2, 3, 6, 6),
        weights=_TWO, opset=6, kept=1, reason="c (Mean) lies between",
    ),
    "sum and largest of three, opset 6": Case(
        "d = Conv(x, w) e = Conv(x, v) f = Sum(d, e, d) c = Max(e, f, d)"
        " y = BatchNormalization <is_test=1> (c, gamma, beta, mean, var)", (2, 3, 6, 6),
        weights=_TWO, opset=6, kept=1, positive=True, reason="need different",
    ),
}  # fmt: skip
