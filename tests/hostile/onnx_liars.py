"""ONNX models that look sound and in which a runtime may find other numbers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import FOUND, READ, REFUSED, add, file
from tests.hostile.onnx_models import _external, _onnx
from tests.hostile.safetensors_files import MEAN
from tests.zoo import onnx_models as zoo

VAR = "bn.running_var"
_BAD = -np.ones(3, np.float32)


def _variance(model: onnx.ModelProto) -> TensorProto:
    found: TensorProto = next(i for i in model.graph.initializer if i.name == VAR)
    return found


def _norm() -> onnx.NodeProto:
    return zoo.onnx_norm("bn", "x", "y")


def _function(model: onnx.ModelProto, domain: str, name: str, nodes: list[onnx.NodeProto]) -> None:
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function(domain, name, ["x"], ["y"], nodes, opsets))


def _if_in_a_function(model: onnx.ModelProto) -> None:
    branches = [zoo.branch(name, 0, f"{name}_y") for name in "ab"]
    choose = helper.make_node("If", ["x"], ["y"], then_branch=branches[0], else_branch=branches[1])
    _function(model, "own", "f", [choose])


def _called_function(model: onnx.ModelProto) -> None:
    """Its branches normalise with what they are given, and the variance is bad."""
    value = numpy_helper.from_array(np.array(True))
    branches = [zoo.branch(name, 0, f"{name}_y") for name in "ab"]
    for branch in branches:
        del branch.initializer[:]
        branch.node[0].input[1:] = ["w", "b", "m", "v"]
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    inputs = ["x", "w", "b", "m", "v"]
    model.functions.append(helper.make_function("own", "f", inputs, ["y"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    given = list(model.graph.node[0].input)
    model.graph.node[0].CopyFrom(helper.make_node("f", given, ["y"], domain="own"))
    _variance(model).CopyFrom(numpy_helper.from_array(_BAD, VAR))


def _own_identity(model: onnx.ModelProto) -> None:
    _function(model, "", "Identity", [helper.make_node("Neg", ["x"], ["y"])])
    _variance(model).name = "v"
    model.graph.node.insert(0, helper.make_node("Identity", ["v"], [VAR]))


def _own_domain(model: onnx.ModelProto) -> None:
    """Whose own order of inputs nobody knows."""
    _function(model, "own", "BatchNormalization", [helper.make_node("Neg", ["x"], ["y"])])
    model.graph.node[0].domain = "own"
    model.opset_import.append(helper.make_opsetid("own", 1))


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(_BAD, VAR))


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(_BAD, VAR)
    places = numpy_helper.from_array(np.arange(3), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))


def _sparse_alone(model: onnx.ModelProto) -> None:
    _sparse(model)
    model.graph.initializer.remove(_variance(model))


def _computed(model: onnx.ModelProto) -> None:
    """The variance's name for what the input gives."""
    model.graph.node.insert(0, helper.make_node("ReduceMean", ["x"], [VAR], axes=[0, 2, 3]))


def _constant(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(_BAD)
    model.graph.node.insert(0, helper.make_node("Constant", [], [VAR], value=value))


def _hidden_by_a_branch(model: onnx.ModelProto) -> None:
    """In the branch the variance's name is another thing's."""
    inner = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], [VAR], axes=[0, 2, 3]), _norm()],
        "inner", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    condition = numpy_helper.from_array(np.array(True), "c")
    model.graph.initializer.append(condition)
    choose = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model.graph.node[0].CopyFrom(choose)


def _complex(model: onnx.ModelProto) -> None:
    _variance(model).CopyFrom(numpy_helper.from_array(_BAD.astype(np.complex64), VAR))


def _text(model: onnx.ModelProto) -> None:
    words = np.array(["-1"] * 3, dtype=object)
    _variance(model).CopyFrom(numpy_helper.from_array(words, VAR))


def _constant_of_two_values(model: onnx.ModelProto) -> None:
    """onnxruntime takes the first, which is sparse and bad."""
    variance = _variance(model)
    model.graph.initializer.remove(variance)
    places = numpy_helper.from_array(np.arange(3))
    bad = helper.make_sparse_tensor(numpy_helper.from_array(_BAD), places, [3])
    node = helper.make_node("Constant", [], [VAR])
    node.attribute.append(helper.make_attribute("sparse_value", bad))
    node.attribute.append(helper.make_attribute("value", variance))
    model.graph.node.insert(0, node)


def _two_opsets(model: onnx.ModelProto) -> None:
    """onnxruntime takes the last, in which more results than one mean training."""
    model.opset_import.append(helper.make_opsetid("ai.onnx", 9))
    model.graph.node[0].output.extend(["m", "v", "saved_m", "saved_v"])


def _eps_twice(model: onnx.ModelProto) -> None:
    for eps in (-2.5, 1e-5):
        model.graph.node[0].attribute.append(helper.make_attribute("epsilon", eps))


def _eps_of_another_kind(model: onnx.ModelProto) -> None:
    eps = model.graph.node[0].attribute.add(name="epsilon", type=onnx.AttributeProto.INT)
    eps.i, eps.f = -1, 1e-5


def _left_to_its_default(
    model: onnx.ModelProto, name: str, value: float, outer: bool = False
) -> None:
    """A function's attribute that no call gives; `outer`: its call is in a function, too."""
    inputs = ["x", "w", "b", "m", "v"]
    default = helper.make_attribute(name, value)
    norm = helper.make_node("BatchNormalization", inputs, ["y", "new_m", "new_v"])
    norm.attribute.add(name=name, type=default.type, ref_attr_name=name)
    if name != "training_mode":
        del norm.output[1:]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model.opset_import.append(opsets[1])
    model.functions.append(
        helper.make_function("own", "f", inputs, ["y"], [norm], opsets, [], [default])
    )
    if outer:
        call = helper.make_node("f", inputs, ["y"], domain="own")
        model.functions.append(helper.make_function("own", "g", inputs, ["y"], [call], opsets))
    given = list(model.graph.node[0].input)
    call = helper.make_node("g" if outer else "f", given, ["y"], domain="own")
    model.graph.node[0].CopyFrom(call)


def _hidden_initialiser(model: onnx.ModelProto, way: str) -> None:
    """A sound one in a branch. The other branch reads the bad one around it: so do both, then."""
    graph, variance = model.graph, _variance(model)
    good = numpy_helper.from_array(numpy_helper.to_array(variance), "v")
    variance.CopyFrom(numpy_helper.from_array(_BAD, "v" if way == "stored" else "bad"))
    ends = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    norm = helper.make_node("BatchNormalization", [*graph.node[0].input[:4], "v"], ["z"])
    other = [helper.make_node("Identity", ["v"], ["w"]), helper.make_node("Relu", ["x"], ["z"])]
    graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    choose = helper.make_node("If", ["c"], ["y"])
    for name, nodes, stored in (("then", [norm], [good]), ("else", other, [])):
        inner = helper.make_graph(nodes, name, [], ends, stored)
        choose.attribute.append(helper.make_attribute(f"{name}_branch", inner))
    graph.node[0].CopyFrom(choose)
    if way != "stored":
        graph.node.insert(int(way == "later"), helper.make_node("Dropout", ["bad"], ["v"]))


def _norm_of_negatives(model: onnx.ModelProto) -> None:
    """LpNormalization divides by the sum of the magnitudes, onnx' reference by that of numbers."""
    _variance(model).CopyFrom(numpy_helper.from_array(_BAD, "v"))
    model.graph.node.insert(0, helper.make_node("LpNormalization", ["v"], [VAR], p=1))


_EDITS: dict[str, tuple[frozenset[int], str, Callable[[onnx.ModelProto], object]]] = {
    "if-in-a-function": (READ, "BatchNorms in a function that nothing calls", _if_in_a_function),
    "called-function": (FOUND, "BatchNorms in the branches of a function", _called_function),
    "own-identity": (REFUSED, "a function in the place of Identity", _own_identity),
    "own-domain": (REFUSED, "somebody's own BatchNormalization", _own_domain),
    "twice": (REFUSED, "two initialisers of one name", _twice),
    "sparse-too": (REFUSED, "a sparse initialiser of the same name", _sparse),
    "sparse-alone": (FOUND, "a sparse variance", _sparse_alone),
    "computed-too": (REFUSED, "a result of the same name", _computed),
    "constant-too": (REFUSED, "a Constant of the same name", _constant),
    "hidden-by-a-branch": (REFUSED, "a branch that uses the name again", _hidden_by_a_branch),
    "two-values": (REFUSED, "a Constant of two values", _constant_of_two_values),
    "two-opsets": (REFUSED, "two versions of the operators", _two_opsets),
    "eps-twice": (REFUSED, "an eps that is given twice", _eps_twice),
    "eps-kind": (REFUSED, "an eps that is an integer, too", _eps_of_another_kind),
    "default-eps": (
        FOUND,
        "a function's own eps",
        partial(_left_to_its_default, name="epsilon", value=-2.5),
    ),
    "default-eps-inside": (
        FOUND,
        "the own eps of a function that a function calls",
        partial(_left_to_its_default, name="epsilon", value=-2.5, outer=True),
    ),
    "default-training": (
        FOUND,
        "a function's own training_mode",
        partial(_left_to_its_default, name="training_mode", value=1),
    ),
    **{
        f"hides-{way}": (
            REFUSED,
            "an initialiser of a branch with a name from outside",
            partial(_hidden_initialiser, way=way),
        )
        for way in ("stored", "computed", "later")
    },
    "negative-norm": (FOUND, "numbers that onnx' reference computes wrong", _norm_of_negatives),
    "complex": (REFUSED, "a complex variance", _complex),
    "text-variance": (REFUSED, "a variance of texts", _text),
}
for _name, (_codes, _what, _edit) in _EDITS.items():
    add(f"onnx-{_name}", _codes, _what, partial(_onnx, edit=_edit))


def _external_twice(folder: Path) -> Path:
    file(folder, np.ones(6, np.float32).tobytes(), "data.bin")

    def edit(model: onnx.ModelProto) -> None:
        _external("data.bin", {"offset": "0"})(model)
        mean = next(i for i in model.graph.initializer if i.name == MEAN)
        mean.external_data.add(key="offset", value="12")

    return _onnx(folder, edit)


def _odd_number(folder: Path, key: str, value: str) -> Path:
    file(folder, np.ones(36, np.float32).tobytes(), "data.bin")
    return _onnx(folder, _external("data.bin", {key: value}))


add("onnx-external-offset-twice", REFUSED, "external data with two offsets", _external_twice)
for _name, _key, _value in (
    ("underscore", "offset", "1_2"),
    ("arabic", "offset", "\u0661\u0662"),
    ("empty", "offset", ""),
    ("plus", "length", "+12"),
):
    add(f"onnx-external-{_key}-{_name}", REFUSED, f"external data with {_key} {_value!r}",
        partial(_odd_number, key=_key, value=_value))  # fmt: skip


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _pickle_too(folder: Path) -> Path:
    """To protobuf the pickle's first bytes are an unknown field, and its length a producer_name."""
    bad = zoo.onnx_values("bn") | {VAR: _BAD}
    model = zoo.onnx_model([_norm()], bad).SerializeToString()
    sound = pickle.dumps({MEAN: np.ones(3, np.float32), VAR: np.ones(3, np.float32)}, 2)
    length = b"\x12\x7f\x00\x00"
    inside = bytes(125) + model
    rest = int.from_bytes(length, "little") - len(inside) - 4
    tail = bytes(rest) + b"0" + sound[2:]
    covered = b"\x1a" + _varint(len(tail))
    assert len(covered) == 4
    return file(folder, b"\x80\x02B" + length + inside + covered + tail, "model.onnx")


add("onnx-pickle-too", REFUSED, "a pickle of sound arrays that is a bad model, too", _pickle_too)
