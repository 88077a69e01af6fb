"""Checkpoints that other people trained: what bncheck reads is what torch and onnx read."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading.opening import open_checkpoint
from tests.zoo.states import numpy_of

REAL = Path(__file__).parents[2].parent / "shared" / "real"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")

#: BatchNorm layers of each file, from the INDEX.md beside them.
LAYERS = {
    "checkpoints/resnet20-cifar10.th": 19,
    "checkpoints/resnet44-cifar10.th": 43,
    "checkpoints/ultralight-rfb-320.pth": 35,
    "checkpoints/ultralight-slim-640.pth": 25,
    "checkpoints/gtcrn-dns3.tar": 22,
    "checkpoints/crepe-tiny.pth": 6,
    "checkpoints/faceboxes.pth": 27,
    "checkpoints/distiller-resnet20-dense.pth.tar": 21,
    "checkpoints/distiller-resnet20-thinned.pth.tar": 21,
    "checkpoints/minifasnet-v2.pth": 50,
    "checkpoints/espnet-encoder-q3.pth": 11,
    "onnx/ultralight-rfb-320.onnx": 35,
    "onnx/gtcrn-stream.onnx": 11,
}
_FOLDERS = ("checkpoints", "snapshots", "onnx")
FILES = sorted(
    str(path.relative_to(REAL)) for folder in _FOLDERS for path in (REAL / folder).glob("*")
)
#: The file that torch.load(weights_only=True) refuses: it holds an object of a class of its own.
REFUSED_BY_TORCH = {"checkpoints/distiller-resnet20-thinned.pth.tar"}


@pytest.mark.parametrize("name", FILES)
def test_layers(name: str) -> None:
    layers = find_layers(open_checkpoint(REAL / name), Assumptions())
    expected = 25 if name.startswith("snapshots/") else LAYERS[name]
    assert sum(layer.tracked for layer in layers) == expected
    assert all(not layer.missing and layer.statistics is not None for layer in layers)
    if name.startswith("snapshots/"):
        epoch = int(name[-7:-4])
        assert {layer.batches for layer in layers} == {80 * (epoch + 1)}


@pytest.mark.parametrize("name", [n for n in FILES if n not in REFUSED_BY_TORCH])
def test_tensors(name: str) -> None:
    checkpoint = open_checkpoint(REAL / name)
    if name.endswith(".onnx"):
        graph = onnx.load(REAL / name).graph
        expected = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        # Weights may stand in Constant nodes, too: these are more than the initialisers.
        assert expected.keys() <= checkpoint.tensors.keys()
    else:
        content = torch.load(REAL / name, map_location="cpu", weights_only=True)
        for key in filter(None, checkpoint.key.split(".")):
            content = content[key]
        expected = {key: numpy_of(value) for key, value in content.items()}
        assert expected.keys() == checkpoint.tensors.keys()
    for key, numbers in expected.items():
        found = checkpoint.tensors[key]
        assert (key, found.dtype, found.shape) == (key, numbers.dtype, numbers.shape)
        assert found.tobytes() == numbers.tobytes(), key
