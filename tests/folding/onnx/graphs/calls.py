"""A BatchNormalization and the node that can take it over, or cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.folding.onnx.graphs.building import Build, Table, bn, conv, conv_bn, model, norm, numbers


def constant_nodes() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in weights.items()
    ]
    return model([*nodes, conv(), bn("c", "y")], {})


def quantised(name: str, opset: int, zero: bool = False) -> Build:
    """One of the tensors is kept as int8, for each of its first places a step."""

    def build() -> onnx.ModelProto:
        weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
        given = [f"{name}.q", "step", *(["zero"] if zero else [])]
        weights |= {
            f"{name}.q": np.round(weights.pop(name) * 30).astype(np.int8),
            "step": np.full(6, 1 / 30, np.float32),
            "zero": np.zeros(6, np.int8),
        }
        node = helper.make_node("DequantizeLinear", given, [name], axis=0)
        return model([node, conv(), bn("c", "y")], weights, opset=opset)

    return build


def zero_bias() -> onnx.ModelProto:
    """The bias that torch.onnx.export(optimize=False) gives a convolution without one."""
    weights = {
        "conv.weight": numbers(6, 3, 3, 3), **norm(6), "zero": np.float32(0), "six": np.array([6]),
    }  # fmt: skip
    nodes = [
        helper.make_node("CastLike", ["zero", "x"], ["z"]),
        helper.make_node("Expand", ["z", "six"], ["bias"]),
        helper.make_node("Conv", ["x", "conv.weight", "bias"], ["c"]), bn("c", "y"),
    ]  # fmt: skip
    return model(nodes, weights)


def shared_parameters() -> onnx.ModelProto:
    weights = {"a.weight": numbers(6, 3, 3, 3), "b.weight": numbers(6, 3, 1, 3), **norm(6)}
    nodes = [
        conv(y="a", w="a.weight"), conv(y="b", w="b.weight"),
        bn("a", "y"), bn("b", "z"),
    ]  # fmt: skip
    return model(nodes, weights, outputs=("y", "z"))


def training() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    node = bn("c", "y", training_mode=1)
    node.output.extend(["mean", "var"])
    return model([conv(), node], weights)


def scale_is_input() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    weights.pop("bn.weight")
    extra = helper.make_tensor_value_info("bn.weight", TensorProto.FLOAT, [6])
    return model([conv(), bn("c", "y")], weights, inputs=[extra])


def conv_is_output() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    return model([conv(), bn("c", "y")], weights, outputs=("c", "y"))


def matmul(shape: Sequence[Any], middle: Sequence[onnx.NodeProto] = (), last: str = "c",
           channels: int = 7, extra: dict[str, Any] | None = None) -> Build:  # fmt: skip
    def build() -> onnx.ModelProto:
        weights = {"fc.weight": numbers(5, 7), **norm(channels), **(extra or {})}
        nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["c"]), *middle, bn(last, "y")]
        return model(nodes, weights, shape)

    return build


def overridable() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    return model([conv(), bn("c", "y")], weights, listed=["conv.weight"])


def shared_weight() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    return model([conv(), conv(y="z"), bn("c", "y")], weights, outputs=("y", "z"))


def transposed(group: int, inputs: int, outer: int, **attributes: Any) -> Build:
    def build() -> onnx.ModelProto:
        channels = outer * group
        weights = {"conv.weight": numbers(inputs, outer, 3, 3), **norm(channels)}
        node = helper.make_node(
            "ConvTranspose", ["x", "conv.weight"], ["c"], group=group, **attributes
        )
        return model([node, bn("c", "y")], weights, ("N", inputs, 9, 9))

    return build


def gemm(**attributes: Any) -> Build:
    def build() -> onnx.ModelProto:
        shape = (7, 5) if attributes.get("transB") else (5, 7)
        weights = {"fc.weight": numbers(*shape), "fc.bias": numbers(7), **norm(7)}
        node = helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["c"], **attributes)
        return model([node, bn("c", "y")], weights, ("N", 5))

    return build


def before(kind: str = "Conv", weight: Sequence[int] = (6, 3, 3, 3), **attributes: Any) -> Build:
    def build() -> onnx.ModelProto:
        weights = {"conv.weight": numbers(*weight), **norm(3)}
        node = helper.make_node(kind, ["b", "conv.weight"], ["y"], **attributes)
        return model([bn("x", "b"), node], weights)

    return build


def in_branch() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    branches = {}
    for name, nodes in (
        ("then_branch", [conv("x", "c1"), bn("c1", "t")]),
        ("else_branch", [conv("x", "c2"), helper.make_node("Relu", ["c2"], ["t2"])]),
    ):
        out = nodes[-1].output[0]
        info = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(nodes, name, [], [info])
    flag = numpy_helper.from_array(np.array(True), "flag")
    nodes = [
        helper.make_node("Constant", [], ["flag"], value=flag),
        helper.make_node("If", ["flag"], ["y"], **branches),
    ]
    return model(nodes, weights)


def product(kind: str, inputs: Sequence[str], weight: Sequence[int], channels: int,
            shape: Sequence[Any], norm_first: bool, **attributes: Any) -> Build:  # fmt: skip
    """A product with a matrix W along some axis, of x or of a normalised x."""

    def build() -> onnx.ModelProto:
        weights = {"W": numbers(*weight), **norm(channels)}
        if norm_first:
            node = helper.make_node(kind, inputs, ["y"], **attributes)
            return model([bn("x", "b"), node], weights, shape)
        node = helper.make_node(kind, inputs, ["c"], **attributes)
        return model([node, bn("c", "y")], weights, shape)

    return build


def transposed_gemm(bias: Any = 0.5, **attributes: Any) -> Build:
    """A matrix whose rows are the features, times a weight, and a bias of any shape."""

    def build() -> onnx.ModelProto:
        weights = {"fc.weight": numbers(5, 7), "fc.bias": np.asarray(bias, np.float32), **norm(7)}
        node = helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["c"], **attributes)
        shape = (5, 4) if attributes.get("transA") else (4, 5)
        return model([node, bn("c", "y")], weights, shape)

    return build


def tiles(kernel: Sequence[int], group: int = 1, opset: int = 17, **attributes: Any) -> Build:
    """BatchNormalization before a ConvTranspose whose kernel is its stride, of unknown sizes."""

    def build() -> onnx.ModelProto:
        weights = {"up.weight": numbers(4, 3, *kernel), "up.bias": numbers(3 * group), **norm(4)}
        node = helper.make_node("ConvTranspose", ["b", "up.weight", "up.bias"], ["y"], group=group,
                                strides=kernel, **attributes)  # fmt: skip
        places = [f"size{axis}" for axis in range(len(kernel))]
        return model([bn("x", "b"), node], weights, ("N", 4, *places), opset=opset)

    return build


def function() -> onnx.ModelProto:
    """A convolution and its BatchNormalization in a function of the model."""
    roles = ["a", "w", "scale", "bias", "mean", "var"]
    inner = [
        helper.make_node("Conv", ["a", "w"], ["t"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["t", *roles[2:]], ["out"]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    made = model([helper.make_node("Relu", ["x"], ["y"])], weights)
    called = helper.make_node("ConvBN", ["x", *weights], ["y"], domain="own")
    made.functions.append(helper.make_function("own", "ConvBN", roles, ["out"], inner, opsets))
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.graph.node[0].CopyFrom(called)
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    return made


def embedding() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Clip", ["i", "zero", "four"], ["rows"]),
        helper.make_node("Gather", ["table", "rows"], ["c"]), bn("c", "n"),
        helper.make_node("Relu", ["n"], ["y"]),
    ]  # fmt: skip
    weights = {"table": numbers(5, 4), "zero": np.array(0), "four": np.array(4), **norm(4)}
    return model(nodes, weights, ("N",))


def two_of_one_value() -> onnx.ModelProto:
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6), **norm(6, prefix="other")}
    nodes = [
        conv(), bn("c", "a"), bn("c", "b", "other"), helper.make_node("Add", ["a", "b"], ["y"]),
    ]  # fmt: skip
    return model(nodes, weights)


def layer_norm() -> onnx.ModelProto:
    weights = {"ln.weight": numbers(7), "ln.bias": numbers(7), **norm(7)}
    node = helper.make_node("LayerNormalization", ["x", "ln.weight", "ln.bias"], ["c"])
    return model([node, bn("c", "y")], weights, ("N", 7))


def sum_of_three() -> onnx.ModelProto:
    sizes = zip("abc", (1, 3, 3), strict=True)
    weights = {f"{name}.weight": numbers(6, 3, 3, size) for name, size in sizes}
    pads = [[1, 0, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    nodes = [
        conv(y=name, w=f"{name}.weight", pads=pad) for name, pad in zip("abc", pads, strict=True)
    ]
    nodes += [helper.make_node("Sum", ["a", "b", "c"], ["s"]), bn("s", "y")]
    return model(nodes, weights | norm(6))


_RESHAPE = {"shape": np.array([0, 5, 7], dtype=np.int64)}

CALLS: Table = {
    "conv_bn_opset9": (conv_bn(9, 4), 0),
    "conv_bn_opset17": (conv_bn(), 0),
    "conv_bn_ir3_listed": (conv_bn(8, 3, listed=True), 0),
    "constant_nodes": (constant_nodes, 0),
    "zero_bias_of_the_input's_dtype": (zero_bias, 0),
    "shared_parameters": (shared_parameters, 0),
    "training_mode": (training, 1),
    "scale_is_input": (scale_is_input, 1),
    "conv_is_output": (conv_is_output, 1),
    "matmul_3d": (matmul(("N", 7, 5)), 1),
    "overridable": (overridable, 1),
    "all_overridable": (conv_bn(listed=True), 1),
    "shared_weight": (shared_weight, 0),
    "conv_transpose": (transposed(1, 4, 6), 0),
    "conv_transpose_stride": (transposed(1, 6, 6, strides=[2, 2], pads=[1, 1, 1, 1]), 0),
    "conv_transpose_group2": (transposed(2, 6, 3), 0),
    "conv_transpose_depthwise": (transposed(6, 6, 1), 0),
    "gemm": (gemm(), 0),
    "gemm_transposed": (gemm(transB=1), 0),
    "gemm_alpha_beta": (gemm(alpha=0.5, beta=2.0), 0),
    "gemm_transposed_input": (transposed_gemm(transA=1, alpha=0.5, beta=2.0), 0),
    "gemm_bias_by_row": (transposed_gemm([[1.0], [-2.0], [0.5], [3.0]]), 0),
    "gemm_bias_of_each": (transposed_gemm(numbers(4, 7), beta=0.5), 0),
    "matmul_left_of_a_matrix": (
        product("MatMul", ["W", "x"], (7, 4), 5, (4, 5), False), 1,  # its rows are the features
    ),
    "tiles_of_one_axis": (tiles([3], group=2), 0),
    "tiles_of_three_axes": (tiles([1, 2, 3]), 0),
    "tiles_oblong": (tiles([2, 3], group=2), 0),
    "tiles_before_opset_11": (tiles([2, 2], opset=9), 0),
    "tiles_same": (tiles([2, 2], auto_pad="SAME_UPPER"), 0),
    "tiles_and_more": (tiles([2, 2], output_padding=[1, 1]), 1),
    "conv_transpose_larger_than_its_windows": (
        transposed(1, 4, 6, strides=[2, 2], output_shape=[20, 19]), 0,
    ),
    "function": (function, 0),
    "embedding": (embedding, 0),
    "two_of_one_value": (two_of_one_value, 0),
    "layer_normalization": (layer_norm, 0),
    "sum_of_three": (sum_of_three, 0),
    "matmul": (matmul(("N", 5)), 0),
    "bn_conv": (before(), 0),
    "bn_conv_same": (before(auto_pad="SAME_UPPER"), 1),
    "bn_conv_padded": (before(pads=[1, 1, 1, 1]), 1),
    "bn_conv_transpose_tiles": (
        before("ConvTranspose", (3, 4, 2, 2), strides=[2, 2]), 0,
    ),
    "matmul_reshape": (
        matmul(("N", 35), [helper.make_node("Reshape", ["c", "shape"], ["r"])], "r", 5,
               {"fc.weight": numbers(35, 35), **_RESHAPE}), 0,
    ),
    "matmul_reshape_shuffled": (
        matmul((4, 5, 5), [helper.make_node("Reshape", ["c", "shape"], ["r"])], "r", 7,
               {"shape": np.array([4, 7, 5], dtype=np.int64)}), 1,
    ),
    "matmul_reshape_to_rows": (
        matmul(("N", 4, 5), [helper.make_node("Reshape", ["c", "shape"], ["r"])], "r", 7,
               {"shape": np.array([-1, 7])}), 0,
    ),
    "matmul_transpose": (
        matmul(("N", 4, 5), [helper.make_node("Transpose", ["c"], ["r"], perm=[0, 2, 1])], "r"), 0,
    ),
    "matmul_transpose_trap": (
        matmul((7, 7, 5), [helper.make_node("Transpose", ["c"], ["r"], perm=[2, 0, 1])], "r"), 1,
    ),
    "fp64": (conv_bn(dtype=np.float64, kind=TensorProto.DOUBLE), 0),
    "fp16": (conv_bn(dtype=np.float16, kind=TensorProto.FLOAT16), 0),
    "fp16_fp32_statistics": (
        conv_bn(dtype=np.float16, stats=np.float32, kind=TensorProto.FLOAT16), 0,
    ),
    "quantised_weight": (quantised("conv.weight", 17, zero=True), 1),
    "quantised_weight_opset13": (quantised("conv.weight", 13), 1),
    "quantised_weight_opset21": (quantised("conv.weight", 21), 1),
    "quantised_mean": (quantised("bn.running_mean", 17), 0),
    "if_branch": (in_branch, 0),
    "matmul_left": (product("MatMul", ["W", "x"], (7, 4), 7, ("N", 4, 5), False), 0),
    "bn_matmul_left": (product("MatMul", ["W", "b"], (7, 4), 4, ("N", 4, 5), True), 0),
    "einsum": (
        product("Einsum", ["x", "W"], (4, 6), 6, ("N", 4, 5, 5), False,
                equation="nchw,co->nohw"), 0,
    ),
    "bn_einsum_weight_first": (
        product("Einsum", ["W", "b"], (6, 4), 4, ("N", 4, 5, 5), True,
                equation="oc,nchw->nohw"), 0,
    ),
}  # fmt: skip
