"""ONNX models, and where they say that their data lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import ANY, FOUND, READ, REFUSED, Build, add, file
from tests.hostile.names import NAMES
from tests.hostile.safetensors_files import MEAN
from tests.hostile.size import many
from tests.zoo import onnx_models as zoo


def _onnx(folder: Path, edit: Callable[[onnx.ModelProto], object]) -> Path:
    model = zoo.onnx_model([zoo.onnx_norm("bn", "x", "y")], zoo.onnx_values("bn"))
    edit(model)
    return file(folder, model.SerializeToString(), "model.onnx")


def _mean(model: onnx.ModelProto) -> TensorProto:
    found: TensorProto = next(i for i in model.graph.initializer if i.name == MEAN)
    return found


def _external(location: str, more: Mapping[str, str]) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        mean = _mean(model)
        mean.ClearField("raw_data")
        mean.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": location, **more}).items():
            mean.external_data.add(key=key, value=value)

    return edit


def _onnx_external(folder: Path, location: str, more: Mapping[str, str] | None = None) -> Path:
    inside = folder / "inside"
    inside.mkdir()
    for place in (folder, inside):
        file(place, np.ones(3, np.float32).tobytes(), "data.bin")
    (inside / "link").symlink_to("../data.bin")
    (inside / "zero").symlink_to("/dev/zero")
    (inside / "loop").symlink_to("loop")
    (inside / "folder").mkdir()
    os.mkfifo(inside / "pipe")
    os.link(folder / "data.bin", inside / "hard")
    return _onnx(inside, _external(location.replace("FOLDER", str(folder)), more or {}))


for _name, _location in {
    "traversal": "../data.bin",
    "hidden-traversal": "folder/../../data.bin",
    "absolute": "FOLDER/data.bin",
    "symlink": "link",
    "hard-link": "hard",
    "device": "zero",
    "pipe": "pipe",
    "folder": "folder",
    "link-loop": "loop",
    "itself-dot": ".",
    "nothing": "",
    "absent": "absent.bin",
    "too-long": "a" * 5000,
    "nul": "data.bin\0",
    "ansi": "\x1b[31m\n::error::x",
}.items():
    add(f"onnx-external-{_name}", REFUSED, f"external data in {_location[:20]!r}",
        partial(_onnx_external, location=_location))  # fmt: skip

add("onnx-external-intact", READ, "none: that the places above differ from a good one",
    partial(_onnx_external, location="data.bin"))  # fmt: skip
for _name, _entries in {
    "negative-offset": {"offset": "-4"},
    "offset-beyond": {"offset": "4000"},
    "offset-not-a-number": {"offset": "x"},
    "offset-huge": {"offset": "9" * 5000},
    "length-differs": {"length": "4"},
    "length-negative": {"length": "-12"},
}.items():
    add(f"onnx-external-{_name}", REFUSED, f"external data with {_name}",
        partial(_onnx_external, location="data.bin", more=_entries))  # fmt: skip


def _set_dims(model: onnx.ModelProto, *dims: int) -> None:
    _mean(model).dims[:] = dims


def _text_mean(model: onnx.ModelProto) -> None:
    words = np.array(["a", "b", "c"], dtype=object)
    _mean(model).CopyFrom(numpy_helper.from_array(words, MEAN))


def _retyped(model: onnx.ModelProto, data_type: int) -> None:
    _mean(model).data_type = data_type


def _nest(model: onnx.ModelProto, depth: int) -> None:
    inner = model.graph
    for _ in range(depth):
        node = inner.node.add(op_type="If")
        inner = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g


def _no_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[:]


def _epsilon(model: onnx.ModelProto, value: float) -> None:
    model.graph.node[0].attribute.add(name="epsilon", f=value, type=onnx.AttributeProto.FLOAT)
    model.graph.node[0].attribute.add(name="momentum", f=value, type=onnx.AttributeProto.FLOAT)


for _name, _codes, _what, _edit in (
    ("no-graph", REFUSED, "a model without a graph", lambda m: m.ClearField("graph")),
    ("no-nodes", REFUSED, "a graph without nodes", lambda m: m.graph.ClearField("node")),
    ("huge-dims", REFUSED, "an initialiser of 2^60", lambda m: _set_dims(m, 1 << 60)),
    ("negative-dims", REFUSED, "an initialiser of -3", lambda m: _set_dims(m, -3)),
    ("dims-differ", REFUSED, "an initialiser of 4 in the bytes of 3", lambda m: _set_dims(m, 4)),
    ("rows-of-nothing", REFUSED, "2^62 rows of nothing", lambda m: _set_dims(m, 1 << 62, 0)),
    ("text", ANY, "a mean of texts", _text_mean),
    ("no-type", REFUSED, "an initialiser without a type", lambda m: _retyped(m, 0)),
    ("unknown-type", REFUSED, "a type that nobody has", lambda m: _retyped(m, 99)),
    ("nested-graphs", ANY, "25 graphs in each other", lambda m: _nest(m, 25)),
    ("no-inputs", ANY, "a BatchNormalization of nothing", _no_inputs),
    ("epsilon-nan", ANY, "an epsilon of NaN", lambda m: _epsilon(m, float("nan"))),
    ("epsilon-infinite", ANY, "an infinite epsilon", lambda m: _epsilon(m, float("inf"))),
    ("name-workflow", READ, "a node whose name speaks to the CI runner",
     lambda m: setattr(m.graph.node[0], "name", NAMES["workflow"])),
):  # fmt: skip
    add(f"onnx-{_name}", _codes, _what, partial(_onnx, edit=_edit))


def _norm_in_a_function(model: onnx.ModelProto) -> None:
    opset = [onnx.helper.make_opsetid("", 20)]
    node = onnx.helper.make_node("BatchNormalization", ["x", "m", "m", "m", "m"], ["y"])
    function = onnx.helper.make_function("own", "f", ["x", "m"], ["y"], [node], opset)
    model.functions.append(function)


add("onnx-norm-in-a-function", REFUSED, "a BatchNorm in a function beside one in the graph",
    partial(_onnx, edit=_norm_in_a_function))  # fmt: skip


def _made_of(nodes: list[onnx.NodeProto], stored: Mapping[str, np.ndarray[Any, Any]]) -> Build:
    """A model whose mean is what these nodes make of what is stored; few bytes."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer.remove(_mean(model))
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in stored.items()
        )
        norm = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *norm])

    return partial(_onnx, edit=edit)


def _doubled(folder: Path, kind: int, times: int, numbers: int) -> Path:
    """Sums of sums of a constant of so many numbers; three of the last are the mean."""
    one, times = helper.make_tensor("one", kind, [1], [1]), many(times)
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["sum0"], value=one),
        *(helper.make_node("Add", [f"sum{n}"] * 2, [f"sum{n + 1}"]) for n in range(times)),
        helper.make_node("Slice", [f"sum{times}", "begin", "end"], ["part"]),
        helper.make_node("Cast", ["part"], [MEAN], to=TensorProto.FLOAT),
    ]
    sizes = {"size": np.array([numbers]), "begin": np.array([0]), "end": np.array([3])}
    return _made_of(nodes, sizes)(folder)


add("onnx-large-constants", REFUSED, "a mean of 20 sums of 16 million numbers, in 2 KB",
    partial(_doubled, kind=TensorProto.DOUBLE, times=20, numbers=(1 << 24) - 8))  # fmt: skip
add("onnx-many-constants", REFUSED, "a mean that 20,000 sums lead to",
    partial(_doubled, kind=TensorProto.FLOAT, times=20_000, numbers=4))  # fmt: skip
add("onnx-overflowing-constants", READ | FOUND, "a mean whose sums overflow, which numpy warns of",
    partial(_doubled, kind=TensorProto.FLOAT, times=200, numbers=4))  # fmt: skip
