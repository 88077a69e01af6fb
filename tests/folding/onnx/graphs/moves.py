"""Nodes between a convolution and a BatchNormalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.folding.onnx.graphs.building import Build, Table, bn, conv, model, norm, numbers


def between(
    *steps: tuple[str, dict[str, Any], Sequence[Any]], channels: int = 6, sign: bool = True,
    shape: Sequence[Any] = ("N", 3, 9, 9), out: int = 6, opset: int = 17,
) -> Build:  # fmt: skip
    """Conv, some nodes (kind, attributes, constant inputs), BatchNormalization."""

    def build() -> onnx.ModelProto:
        weights = {"conv.weight": numbers(out, 3, 3, 3), **norm(channels)}
        if not sign:
            weights["bn.weight"] = np.abs(weights["bn.weight"]) + np.float32(0.1)
        nodes, last = [conv()], "c"
        for place, (kind, attributes, constants) in enumerate(steps):
            names = []
            for i, array in enumerate(constants):
                names.append("" if array is None else f"k{place}.{i}")
                if array is not None:
                    weights[names[-1]] = np.asarray(array)
            nodes.append(helper.make_node(kind, [last, *names], [f"s{place}"], **attributes))
            last = f"s{place}"
        return model([*nodes, bn(last, "y")], weights, shape, opset=opset)

    return build


def shiftless(kind: str, constants: dict[str, Any] | None = None, **attributes: Any) -> Build:
    """BatchNormalization with positive scales alone, an activation, Conv with padding."""

    def build() -> onnx.ModelProto:
        weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(3), **(constants or {})}
        weights["bn.weight"] = np.abs(weights["bn.weight"]) + np.float32(0.1)
        for role in ("bias", "running_mean"):
            weights[f"bn.{role}"] *= 0
        act = helper.make_node(kind, ["b", *(constants or {})], ["a"], **attributes)
        return model([bn("x", "b"), act, conv("a", "y", pads=[1, 1, 1, 1])], weights)

    return build


def shuffled() -> onnx.ModelProto:
    """The channel shuffle of ShuffleNet."""
    weights = {
        "conv.weight": numbers(6, 3, 3, 3), **norm(6),
        "wide": np.array([0, 2, 3, 7, 7]), "back": np.array([0, 6, 7, 7]),
    }  # fmt: skip
    nodes = [
        conv(), helper.make_node("Reshape", ["c", "wide"], ["w"]),
        helper.make_node("Transpose", ["w"], ["t"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["t", "back"], ["b"]), bn("b", "y"),
    ]  # fmt: skip
    return model(nodes, weights)


def conv_and_identity() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(3, 3, 3, 3), **norm(3)}
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["x", "c"], ["s"]), bn("s", "y"),
    ]  # fmt: skip
    return model(nodes, weights)


def two_norms_of_a_split() -> onnx.ModelProto:
    weights = {
        "conv.weight": numbers(6, 3, 3, 3), **norm(2), **norm(4, prefix="bn2"),
        "sizes": np.array([2, 4]),
    }  # fmt: skip
    nodes = [
        conv(), helper.make_node("Split", ["c", "sizes"], ["a", "b"], axis=1),
        bn("a", "na"), bn("b", "nb", "bn2"),
        helper.make_node("Concat", ["nb", "na"], ["y"], axis=1),
    ]  # fmt: skip
    return model(nodes, weights)


def pooled_as_many() -> onnx.ModelProto:
    """x.view(x.shape[0], -1), as the exporter of TorchScript writes it."""
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6), "zero": np.array(0),
               "axis": np.array([0]), "rest": np.array([-1])}  # fmt: skip
    nodes = [
        conv(), helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Shape", ["c"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["row"]),
        helper.make_node("Concat", ["row", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["g", "shape"], ["r"]), bn("r", "y"),
    ]  # fmt: skip
    return model(nodes, weights)


def frames() -> onnx.ModelProto:
    """Of (N, T, C, H, W), frames among the samples; behind the convolution (N, C, T, H, W)."""
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6), "axis": np.array([0]),
               "one": np.array(1), "zero": np.array(0), "two": np.array([2]),
               "nine": np.array([9])}  # fmt: skip

    def size(source: str, place: str, result: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Shape", [source], [f"{result}.sizes"]),
            helper.make_node("Gather", [f"{result}.sizes", place], [f"{result}.0"]),
            helper.make_node("Unsqueeze", [f"{result}.0", "axis"], [result]),
        ]

    nodes = [
        *size("x", "zero", "n"), *size("x", "one", "t"),
        helper.make_node("Mul", ["n", "t"], ["nt"]),
        helper.make_node("Shape", ["x"], ["image"], start=2),
        helper.make_node("Concat", ["nt", "image"], ["flat"], axis=0),
        helper.make_node("Reshape", ["x", "flat"], ["f"]), conv("f"),
        helper.make_node("Shape", ["c"], ["small"]),
        helper.make_node("Slice", ["small", "one_", "nine"], ["rest"]),
        helper.make_node("Concat", ["n", "t", "rest"], ["back"], axis=0),
        helper.make_node("Reshape", ["c", "back"], ["b"]),
        helper.make_node("Transpose", ["b"], ["p"], perm=[0, 2, 1, 3, 4]), bn("p", "y"),
    ]  # fmt: skip
    return model(nodes, weights | {"one_": np.array([1])}, ("N", "T", 3, 9, 9))


_HALF = np.array([1, 1, 2, 2], dtype=np.float32)

MOVES: Table = {
    "conv_and_identity": (conv_and_identity, 0),
    "depth_to_space_crd": (
        between(("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, ()), channels=2, out=8), 0,
    ),
    "depth_to_space_dcr": (between(("DepthToSpace", {"blocksize": 2}, ()), channels=2, out=8), 0),
    "space_to_depth": (
        between(("SpaceToDepth", {"blocksize": 7}, ()), channels=294), 1,  # each place its own map
    ),
    "expand": (
        between(("GlobalAveragePool", {}, []), ("Expand", {}, [np.array([1, 1, 4, 4])])), 0,
    ),
    "tile": (between(("Tile", {}, [np.array([1, 1, 2, 3])])), 0),
    "tile_channels": (between(("Tile", {}, [np.array([1, 2, 1, 1])]), channels=12), 1),
    "gather_channels": (
        between(("Gather", {"axis": 1}, [np.array([5, 0, -2, 2])]), channels=4), 0,
    ),
    "gather_twice": (between(("Gather", {"axis": 1}, [np.array([1, 1])]), channels=2), 1),
    "gather_position": (between(("Gather", {"axis": 3}, [np.array(-1)])), 0),
    "slice_two_axes": (
        between(("Slice", {}, [np.array([1, -4]), np.array([5, 99]), np.array([1, -1])]),
                channels=4), 0,
    ),
    "slice_backwards": (
        between(("Slice", {}, [np.array([-1]), np.array([-99]), np.array([1]), np.array([-2])]),
                channels=3), 0,
    ),
    "channel_shuffle": (shuffled, 0),
    "split_concat": (two_norms_of_a_split, 0),
    "neg": (between(("Neg", {}, ())), 0),
    "mul_add_constants": (
        between(("Mul", {}, [numbers(6, 1, 1)]), ("Sub", {}, [numbers(1)]),
                ("Div", {}, [np.float32(0.3)])), 0,
    ),
    "reduce_sum": (
        between(("ReduceSum", {"keepdims": 0}, [np.array([2, 3])])), 0,
    ),
    "reduce_mean": (between(("ReduceMean", {"axes": [2, 3]}, ())), 0),
    "global_average_flatten": (between(("GlobalAveragePool", {}, ()), ("Flatten", {}, ())), 0),
    "average_pool_padded": (
        between(("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1],
                                 "count_include_pad": 1}, ())), 1,
    ),
    "average_pool_uncounted": (
        between(("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, ())), 0,
    ),
    "max_pool": (between(("MaxPool", {"kernel_shape": [2, 2]}, ())), 1),
    "max_pool_positive": (between(("MaxPool", {"kernel_shape": [2, 2]}, ()), sign=False), 0),
    "resize_nearest": (between(("Resize", {"mode": "nearest"}, [None, _HALF])), 0),
    "resize_linear": (between(("Resize", {"mode": "linear"}, [None, _HALF])), 0),
    "pad_that_cuts": (between(("Pad", {}, [np.array([0, 0, -1, 0, 0, 0, -2, -1])])), 0),
    "pad_that_cuts_and_fills": (between(("Pad", {}, [np.array([0, 0, -1, 0, 0, 0, 2, 0])])), 1),
    "pad_named_axes": (
        between(("Pad", {"mode": "edge"}, [np.array([1, 2]), None, np.array([-1])]), opset=18), 0,
    ),
    "warped": (between(("GridSample", {"padding_mode": "border"}, [numbers(2, 4, 5, 2)]),
                       shape=(2, 3, 9, 9)), 0),
    "warped_into_zeros": (
        between(("GridSample", {}, [numbers(2, 4, 5, 2)]), shape=(2, 3, 9, 9)), 1,
    ),
    "pooled_to_rows": (
        between(("GlobalAveragePool", {}, ()), ("Reshape", {}, [np.array([-1, 6])])), 0,
    ),
    "pooled_to_as_many_rows": (pooled_as_many, 0),
    "frames": (frames, 0),
    "pad_reflect": (
        between(("Pad", {"mode": "reflect"}, [np.array([0, 0, 1, 1, 0, 0, 2, 0])])), 0,
    ),
    "pad_zeros": (between(("Pad", {}, [np.array([0, 0, 1, 1, 0, 0, 2, 0])])), 1),
    "relu_plus_number": (
        between(("Relu", {}, ()), ("Add", {}, [np.float32(0.5)]), sign=False), 0,
    ),
    "relu_between": (between(("Relu", {}, ())), 1),
    "leaky_relu_shiftless": (shiftless("LeakyRelu", alpha=0.2), 0),
    "clip_at_zero_shiftless": (shiftless("Clip", {"low": np.float32(0)}), 0),
    "clip_at_one_shiftless": (shiftless("Clip", {"low": np.float32(1)}), 0),
    "max_with_zero_shiftless": (shiftless("Max", {"zero": np.float32(0)}), 0),
    "prelu_shiftless": (shiftless("PRelu", {"slope": numbers(3, 1, 1)}), 0),
    "sigmoid_shiftless": (shiftless("Sigmoid"), 1),
}  # fmt: skip
