"""Sizes that a model computes are what onnx' reference computes, or are not known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bncheck.graph.dataflow import Dim
from bncheck.graph.onnx.read import _read
from bncheck.graph.onnx.scope import Scope
from bncheck.reading.onnx_constants import Resolver

SIZES = {"n": 2, "h": 7}


def _model(nodes: Sequence[onnx.NodeProto], numbers: dict[str, list[int]]) -> onnx.ModelProto:
    given_ = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", 5])
    results = [helper.make_empty_tensor_value_info(node.output[0]) for node in nodes]
    stored = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in numbers.items()]
    graph = helper.make_graph(nodes, "sizes", [given_], results, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def _followed(model: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    scope = Scope(model.graph, model.graph, model.ir_version, Resolver(model))
    _read(model.graph, scope, "graph")
    return scope.sizes


def _value(size: Dim) -> int:
    parts = str(size).split("*")
    return math.prod(SIZES[part] if part in SIZES else int(part) for part in parts)


_PLACES = st.integers(-4, 3)


@given(st.data())
def test_they_are_what_the_reference_computes(data: st.DataObject) -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s0"])]
    numbers: dict[str, list[int]] = {"one": [1]}
    lengths = {"s0": 4}
    for step in range(1, data.draw(st.integers(2, 6))):
        result, source = f"s{step}", data.draw(st.sampled_from(sorted(lengths)))
        length = lengths[source]
        kind = data.draw(st.sampled_from(["Gather", "Slice", "Concat", "Mul"]))
        if kind == "Gather" and length:
            places = data.draw(st.lists(st.integers(-length, length - 1), max_size=3))
            numbers[f"{result}.at"] = places
            nodes.append(helper.make_node("Gather", [source, f"{result}.at"], [result]))
            lengths[result] = len(places)
        elif kind == "Slice":
            start, end = data.draw(_PLACES), data.draw(_PLACES)
            numbers |= {f"{result}.from": [start], f"{result}.to": [end], f"{result}.on": [0]}
            names = [source, f"{result}.from", f"{result}.to", f"{result}.on"]
            nodes.append(helper.make_node("Slice", names, [result]))
            lengths[result] = len(range(length)[start:end])
        elif kind == "Concat":
            other = data.draw(st.sampled_from(sorted(lengths)))
            nodes.append(helper.make_node("Concat", [source, other], [result], axis=0))
            lengths[result] = length + lengths[other]
        elif length == 1:
            nodes.append(helper.make_node("Mul", [source, "one"], [result]))
            lengths[result] = 1
    model = _model(nodes, numbers)
    x = np.zeros((SIZES["n"], 3, SIZES["h"], 5), np.float32)
    right = dict(zip(lengths, ReferenceEvaluator(model).run(None, {"x": x}), strict=True))
    followed = _followed(model)
    assert "s0" in followed
    for name, sizes in followed.items():
        assert [_value(size) for size in sizes] == list(np.ravel(right[name]))


def test_what_is_out_of_range_or_unknown_is_not_followed() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "far"], ["beyond"]),
        helper.make_node("Gather", ["s", "one"], ["three"]),
        helper.make_node("Gather", ["s", "zero"], ["some"]),
        helper.make_node("Slice", ["s", "zero", "some"], ["cut"]),
        helper.make_node("Slice", ["s", "zero", "three", "zero", "zero"], ["still"]),
    ]
    followed = _followed(_model(nodes, {"far": [9], "one": [1], "zero": [0]}))
    assert followed["three"] == (3,)
    assert followed["some"] == ("n",)
    assert not {"beyond", "cut", "still"} & set(followed)
