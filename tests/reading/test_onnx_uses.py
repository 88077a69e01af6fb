"""What an ONNX graph does with running statistics, beside the norms that take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node

from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint
from tests.reading.loaders.test_onnx import load
from tests.zoo import onnx_models as zoo

_MEAN, _VAR = np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)
_STORED = {
    "bn.running_mean": _MEAN,
    "bn.running_var": _VAR,
    "shape": np.array([3, 1, 1]),
    "eps": np.array(8, np.float32),  # that of `load`
    "1": np.array([1], np.float32),
    "minus": np.array(-1, np.float32),
    "one": np.ones(3, np.float32),
    "zero": np.zeros(3, np.float32),
    "one.w": np.ones((3, 1, 1), np.float32),
    "zero.w": np.zeros((3, 1, 1), np.float32),
}
_WIDE = (("Reshape", "bn.running_mean shape", "m"), ("Reshape", "bn.running_var shape", "v"))
_ROOT = (("Add", "v eps", "e"), ("Sqrt", "e", "d"))
_LESS = ("Sub", "x m", "c")
_SOUND = {
    "divided": (*_WIDE, _LESS, *_ROOT, ("Div", "c d", "y")),
    "eps-first": (*_WIDE, _LESS, ("Add", "eps v", "e"), ("Sqrt", "e", "d"), ("Div", "c d", "y")),
    "scaled": (
        *(*_WIDE, *_ROOT, ("Reciprocal", "d", "r"), ("Mul", "x r", "s"), ("Mul", "m r", "t")),
        ("Sub", "s t", "y"),
    ),
    "as-one-through": (  # 1 / sqrt as torch's older exporter writes it
        *(*_WIDE, *_ROOT, ("Div", "1 d", "r"), ("Mul", "one.w r", "s"), ("Mul", "m s", "t")),
        *(("Sub", "zero.w t", "b"), ("Mul", "x s", "p"), ("Add", "p b", "y")),
    ),
}
_NORM = ("BatchNormalization", "x one zero bn.running_mean bn.running_var", "n")
_NOT = {
    "without-root": (*_WIDE, _LESS, ("Add", "v eps", "e"), ("Div", "c e", "y")),
    "negated": (*_WIDE, _LESS, ("Neg", "v", "n"), ("Add", "n eps", "e"), ("Sqrt", "e", "d"),
                ("Div", "c d", "y")),
    "plus-mean": (*_WIDE, *_ROOT, ("Add", "x m", "c"), ("Div", "c d", "y")),
    "less-eps": (*_WIDE, _LESS, ("Add", "v minus", "e"), ("Sqrt", "e", "d"), ("Div", "c d", "y")),
    "mean-alone": (*_WIDE, ("Sub", "x m", "y")),
    "beside-a-norm": (*_WIDE, _NORM, ("Mul", "n v", "y")),
}  # fmt: skip
_Nodes = tuple[tuple[str, str, str], ...]


def _saved(nodes: _Nodes, path: Path) -> Path:
    made = [make_node(kind, given.split(), [made]) for kind, given, made in nodes]
    onnx.save(zoo.onnx_model(made, _STORED), path)
    return path


@pytest.mark.parametrize("nodes", _SOUND.values(), ids=_SOUND)
def test_what_normalises_by_them_is_read(nodes: _Nodes, tmp_path: Path) -> None:
    path = _saved(nodes, tmp_path / "net.onnx")
    read, runs = open_checkpoint(path).tensors, load(path)
    for role in ("running_mean", "running_var"):
        np.testing.assert_array_equal(read[f"bn.{role}"], runs[role].numpy())


@pytest.mark.parametrize("nodes", _NOT.values(), ids=_NOT)
def test_what_does_not_is_refused(nodes: _Nodes, tmp_path: Path) -> None:
    path = _saved(nodes, tmp_path / "net.onnx")
    runs = load(path)
    right = (np.array_equal(runs["running_mean"].numpy(), _MEAN),
             np.array_equal(runs["running_var"].numpy(), _VAR))  # fmt: skip
    assert not all(right)
    with pytest.raises(BncheckError, match="running statistics of 'bn'") as refused:
        open_checkpoint(path)
    assert "BatchNormalization" in refused.value.hint


def test_in_a_branch_they_are_followed_too(tmp_path: Path) -> None:
    model = zoo.onnx_model([], {**_STORED, "chosen": np.array(True)})
    inner = {}
    for name, nodes in (("then", _SOUND["divided"]), ("else", _NOT["without-root"])):
        made = [make_node(kind, given.split(), [made]) for kind, given, made in nodes]
        inner[f"{name}_branch"] = onnx.helper.make_graph(
            made, name, [], [onnx.helper.make_empty_tensor_value_info("y")],
            [numpy_helper.from_array(np.array(8, np.float32), f"{name}_eps")],
        )  # fmt: skip
    model.graph.node.append(make_node("If", ["chosen"], ["y"], **inner))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(BncheckError, match="running statistics of 'bn'"):
        open_checkpoint(tmp_path / "net.onnx")
