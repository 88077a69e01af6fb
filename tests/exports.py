"""bncheck's export beside torch's own, on the usual architectures: what is left, and what it costs.

    python -m tests.exports [NAME...]

Each model is exported by bncheck and by plain torch.onnx.export(dynamo=True). The table gives for
both the BatchNormalizations left, the traces of this machine in the files, the largest relative
error against the float64 model at any level of onnxruntime; and the latency of bncheck's file as a
ratio to torch's, level by level, one thread, in turns. torchvision's models follow where it can be
imported, ResNets trained on CIFAR-10 where they lie beside the project.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

import bncheck
from bncheck.reading.onnx_file import graphs_of
from bncheck.shipping.axes import Axes, traced
from bncheck.shipping.onnx_side import OnnxSide
from bncheck.shipping.proof import prove
from bncheck.shipping.report import node_counts
from bncheck.shipping.sessions import LEVELS, Runnable, latency
from bncheck.shipping.sides import TorchSide, fresh
from tests.architectures import ARCHITECTURES, RGB, randomised
from tests.networks import REAL
from tests.resnet import ResNet

#: A path of some machine. An ONNX value may be called `/layer1/Conv`, so the start must be known.
_PATH = re.compile(
    rb"(?:/(?:home|root|Users|usr|opt|tmp|var|mnt|work|data|workspace|content|private)/"
    rb"|[A-Za-z]:\\)[\w.\-/\\]+|\b[\w\-./]+\.py\b|pkg\.torch\.[\w.]+"
)

Made = tuple[str, Callable[[], nn.Module], tuple[int, ...]]
_TORCHVISION = (
    "resnet18", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0",
    "regnet_y_400mf", "vgg11_bn",
)  # fmt: skip
_IMAGENET = (2, 3, 224, 224)


def models() -> Iterator[Made]:
    """Name, how to build it in eval mode, shape of its input."""
    for name, (build, shape) in ARCHITECTURES.items():
        yield name, lambda build=build: randomised(build()), shape  # type: ignore[misc]
    for depth in (20, 44):
        path = REAL / "checkpoints" / f"resnet{depth}-cifar10.th"
        if path.exists():
            yield f"trained resnet{depth}", lambda p=path, d=depth: _trained(p, d), RGB  # type: ignore[misc]
    library = _torchvision()
    if library is not None:
        for name in _TORCHVISION:
            build = getattr(library, name)
            yield f"torchvision {name}", lambda build=build: randomised(build()), _IMAGENET  # type: ignore[misc]


def _trained(path: Path, depth: int) -> nn.Module:
    tensors = bncheck.open_checkpoint(path).tensors
    model = ResNet(depth)
    state = {
        name.removeprefix("module."): torch.from_numpy(tensors[name].copy()) for name in tensors
    }
    model.load_state_dict(state, strict=False)  # the file counts no batches
    return model.eval()


def _torchvision() -> Any:
    """Its models; the stubs are for a torchvision without its compiled operators."""
    try:
        library: Any = getattr(torch.library, "Library")("torchvision", "DEF")  # noqa: B009
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision.models")
    except ImportError:
        return None


def _plain(model: nn.Module, example: torch.Tensor, path: Path) -> onnx.ModelProto:
    """What people write; its chatter aside."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        torch.onnx.export(model, (example,), path, dynamo=True, external_data=False,
                          dynamic_shapes=({0: "batch"},))  # fmt: skip
        logging.disable(logging.NOTSET)
    return onnx.load(path)


def _leaks(model: onnx.ModelProto) -> list[str]:
    """Strings in a model that tell of the machine or the source code it was made from.

    Weights are left out: among millions of random bytes some look like `C:\\x`.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for graph in graphs_of(bare.graph):
        for tensor in graph.initializer:
            tensor.ClearField("raw_data")
    runs = re.findall(rb"[\x20-\x7e]{6,}", bare.SerializeToString())  # as `strings` finds them
    return sorted({text.decode("ascii") for run in runs for text in _PATH.findall(run)})


def compared(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[str, ...]:
    """One row of the table."""
    torch.manual_seed(0)
    model, example = build(), torch.randn(shape)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.onnx", Path(folder) / "theirs.onnx"
        bncheck.export(model, (example,), ours, timing=False)
        files = [onnx.load(ours), _plain(model, example, theirs)]
        traces = [len(_leaks(file)) for file in files]
    side = TorchSide(traced(model, (example,), Axes()))
    errors = [prove(side, OnnxSide(file)).worst for file in files]
    left = [node_counts(file).get("BatchNormalization", 0) for file in files]
    arrays = fresh(side, 1, 1, np.random.default_rng(0))
    ratios = []
    for level in LEVELS:
        own, other = latency(Runnable(files[0]), Runnable(files[1]), arrays, level, budget=3.0)
        ratios.append(f"{own / other:.3f}")
    pairs = [f"{a} / {b}" for a, b in (left, traces)]
    return (*pairs, f"{errors[0]:.1e} / {errors[1]:.1e}", *ratios)


def main(names: list[str]) -> None:
    """Print the table, a row as soon as it is known."""
    torch.set_num_threads(1)
    head = ("bncheck / torch", "BN left", "traces", "error", *LEVELS)
    _say(head)
    for name, build, shape in models():
        if not names or name in names:
            try:
                _say((name, *compared(build, shape)))
            except bncheck.BncheckError as error:
                sys.stdout.write(f"{name:30}  {error}\n")


def _say(cells: tuple[str, ...]) -> None:
    widths = (30, 9, 9, 19, 11, 8, 5)
    sys.stdout.write(
        "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip() + "\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
