"""Builds what the commands are measured on: `python -m tests.benchmarks.build FOLDER`.

In a process of its own, because a child's peak memory begins at its parent's.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import safetensors.torch
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_saver
from torch.optim.swa_utils import update_bn

from tests.architectures import randomised
from tests.benchmarks.networks import densenet121, efficientnet_b0, pooled, resnet18, resnet50
from tests.resnet import ResNet

ROLES = {"weight": 1.0, "bias": 0.1, "running_mean": 0.2, "running_var": 0.9}
SNAPSHOTS = 500
#: Networks that become ONNX files, and the size of their images.
EXPORTED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet50": (resnet50, 224),
    "densenet121": (densenet121, 224),
    "efficientnet_b0": (efficientnet_b0, 224),
    "pooled": (pooled, 224),
}


def norms(number: int, channels: int) -> dict[str, torch.Tensor]:
    """A state dict of so many BatchNorms."""
    state: dict[str, torch.Tensor] = {}
    for index in range(number):
        name = f"blocks.{index}.bn"
        state |= {f"{name}.{role}": torch.full((channels,), v) for role, v in ROLES.items()}
        state[f"{name}.num_batches_tracked"] = torch.tensor(10_000)
    return state


def large(folder: Path) -> None:
    """1 GiB: 56 convolutions, each with its BatchNorm, as ONNX, .pt and .safetensors."""
    state, nodes = norms(56, 1024), []
    for index in range(56):
        state[f"blocks.{index}.conv.weight"] = torch.full((1024, 512, 3, 3), 0.01)
        names = [f"blocks.{index}.bn.{role}" for role in ROLES]
        conv = [f"x{index}", f"blocks.{index}.conv.weight"]
        nodes.append(onnx.helper.make_node("Conv", conv, [f"y{index}"], pads=[1, 1, 1, 1]))
        norm = [f"y{index}", *names]
        nodes.append(onnx.helper.make_node("BatchNormalization", norm, [f"z{index}"]))
        nodes.append(
            onnx.helper.make_node("Slice", [f"z{index}", "start", "end", "axis"], [f"x{index + 1}"])
        )
    torch.save(state, folder / "large.pt")
    safetensors.torch.save_file(state, folder / "large.safetensors")
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    initializers = [onnx.numpy_helper.from_array(t.numpy(), n) for n, t in floats.items()]
    for name, value in (("start", 0), ("end", 512), ("axis", 1)):
        initializers.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 512, 8, 8])
        for name in ("x0", "x56")
    ]
    graph = onnx.helper.make_graph(nodes, "large", ports[:1], ports[1:], initializers)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), folder / "large.onnx")


def snapshots(folder: Path) -> None:
    """Of a ResNet-20 (1.1 MB, 19 BatchNorms), each with other numbers."""
    state = ResNet(20).state_dict()
    (folder / "snapshots").mkdir()
    for step in range(SNAPSHOTS):
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand_like(tensor))
        torch.save({"state_dict": state, "step": step}, folder / "snapshots" / f"{step}.pt")


def exported(folder: Path) -> None:
    """Weights, and ONNX models with the BatchNormalizations that torch would fold by itself."""
    for name, (make, size) in EXPORTED.items():
        model = randomised(make()).eval()
        torch.save(model.state_dict(), folder / f"{name}.pt")
        torch.onnx.export(
            model, (torch.randn(1, 3, size, size),), str(folder / f"{name}.onnx"), dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip


def measured(folder: Path) -> None:
    """A ResNet-18 whose means are off by half a standard deviation, one with the statistics of the
    first images, and images for them."""
    torch.manual_seed(0)
    torch.save(stale_statistics(resnet18()).state_dict(), folder / "stale.pt")
    images = torch.randn(2048, 3, 64, 64)
    np.savez(folder / "images.npz", x=images.numpy())
    model = resnet18()
    update_bn(torch.split(images[:256], 64), model)
    torch.save(model.state_dict(), folder / "healthy.pt")


@torch.no_grad()
def stale_statistics(model: nn.Module, variances: bool = False) -> nn.Module:
    """Means off by half a standard deviation; with `variances`, these by a factor of e^.5 or so."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            deviation = norm.running_var.sqrt()
            norm.running_mean += 0.5 * deviation * torch.randn_like(deviation)
            if variances:
                norm.running_var *= torch.exp(0.5 * torch.randn_like(deviation))
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.fill_(10_000)
    return model


def main(folder: Path) -> None:
    torch.manual_seed(0)
    large(folder)
    snapshots(folder)
    exported(folder)
    measured(folder)
    many = norms(10_000, 4)
    torch.save(many, folder / "many.pt")
    safetensors.torch.save_file(many, folder / "many.safetensors")
    state_dict_saver.save(norms(110, 64), checkpoint_id=folder / "distributed", no_dist=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        main(Path(sys.argv[1]))
