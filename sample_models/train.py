"""Train DigitNet on scikit-learn's digits and write every file of this folder.

    python sample_models/train.py [--out FOLDER]

Needs torch, scikit-learn, safetensors, onnx and onnxscript. Every training is seeded and runs on
one thread, so a second run gives the same weights. One line is printed for each file: its size and,
where there is a network in it, the accuracy on the test images in eval mode, before and after its
statistics are measured anew on the training images with the weights left as they are.
"""

import argparse
import copy
import json
import logging
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from nets import DigitNet, PlainNet
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta

HERE = Path(__file__).resolve().parent

# Pixels are 0..16. These are the mean and the standard deviation of the training pixels over 16.
MEAN, STD = 0.3054, 0.3760
TRAINING_IMAGES = 1437
SPLIT_SEED = 0

SNAPSHOT_EPOCHS = (1, 2, 4, 8, 14, 20)
EARLY_EPOCH, LAST_EPOCH = 4, 20
EMA_DECAY = 0.995
DYNAMIC_BATCH = ({0: torch.export.Dim("batch", min=1)},)

State = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """The images, standardised, and the labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def standardised_digits() -> Digits:
    raw = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(raw.target))
    train, test = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    x = torch.from_numpy(((raw.images / 16 - MEAN) / STD).astype(np.float32)).unsqueeze(1)
    y = torch.from_numpy(raw.target.astype(np.int64))
    return Digits(x[train], y[train], x[test], y[test])


def shuffled(x: Tensor, y: Tensor, batch_size: int) -> Iterator[Batch]:
    """One epoch of full batches; the incomplete last one is dropped."""
    order = torch.randperm(len(x))
    for start in range(0, len(x) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield x[chosen], y[chosen]


# --- training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: SGD with momentum, and a cosine schedule down to 0."""

    momentum: float = 0.1
    batch_size: int = 32
    epochs: int = LAST_EPOCH
    max_steps: int | None = None
    lr: float = 0.05
    seed: int = 0
    plain: bool = False


@dataclass(frozen=True)
class Run:
    """What a training leaves behind."""

    net: DigitNet
    ema_weights: State
    optimizer: dict[str, Any]
    snapshots: dict[int, State]
    steps_per_epoch: int


def train(digits: Digits, recipe: Recipe) -> Run:
    """Train a network from the start."""
    torch.manual_seed(recipe.seed)
    net = PlainNet() if recipe.plain else DigitNet(momentum=recipe.momentum)
    ema: State = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    steps_per_epoch = len(digits.train_x) // recipe.batch_size
    steps = min(recipe.epochs * steps_per_epoch, recipe.max_steps or sys.maxsize)
    optimizer = torch.optim.SGD(net.parameters(), recipe.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    snapshots = {}
    step = 0
    for epoch in range(1, recipe.epochs + 1):
        for x, y in shuffled(digits.train_x, digits.train_y, recipe.batch_size):
            if step == steps:
                break
            training_step(net, optimizer, x, y)
            schedule.step()
            average_into(ema, net)
            step += 1
        if epoch in SNAPSHOT_EPOCHS:
            snapshots[epoch] = state_of(net)
    return Run(net.eval(), ema, optimizer.state_dict(), snapshots, steps_per_epoch)


def training_step(net: DigitNet, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One update; skipped when the loss is not finite, as a mixed-precision scaler does."""
    net.train()
    loss = nn.functional.cross_entropy(net(x), y)
    if not torch.isfinite(loss):
        return
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def average_into(ema: State, net: DigitNet) -> None:
    """Follow the weights, and only the weights, with an exponential moving average."""
    for name, weight in net.named_parameters():
        ema[name].lerp_(weight, 1 - EMA_DECAY)


@torch.no_grad()
def refresh_statistics(net: DigitNet, batches: Iterator[Batch]) -> DigitNet:
    """Let the running statistics move over some batches; the weights stay."""
    net.train()
    for x, _ in batches:
        net(x)
    return net.eval()


# --- measuring ----------------------------------------------------------------------------------


def norms_of(net: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


@torch.no_grad()
def accuracy(net: nn.Module, digits: Digits) -> float:
    predicted = net.eval()(digits.test_x).argmax(dim=1)
    return float((predicted == digits.test_y).double().mean())


@torch.no_grad()
def recalibrated(net: DigitNet, digits: Digits) -> DigitNet:
    """A copy whose statistics are those of the training images, taken as one batch."""
    net = copy.deepcopy(net)
    for norm in norms_of(net):
        norm.reset_running_stats()
        norm.momentum = 1.0
    net.train()(digits.train_x)
    return net.eval()


# --- states -------------------------------------------------------------------------------------


def state_of(net: nn.Module) -> State:
    return copy.deepcopy(net.state_dict())


def net_with(state: Mapping[str, Tensor]) -> DigitNet:
    net = DigitNet()
    net.load_state_dict(state)
    return net.eval()


def buffers_of(state: State) -> State:
    """The BatchNorm buffers in a state: running_mean, running_var and num_batches_tracked."""
    weights = {name for name, _ in DigitNet().named_parameters()}
    return {name: tensor for name, tensor in state.items() if name not in weights}


def checkpoint(net: nn.Module) -> dict[str, Any]:
    return {"state_dict": state_of(net)}


# --- the healthy network in its containers ------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What the samples are made from: the data and one good training."""

    digits: Digits
    run: Run

    def healthy(self) -> DigitNet:
        return copy.deepcopy(self.run.net)

    @cached_property
    def plain_run(self) -> Run:
        return train(self.digits, Recipe(plain=True))


def healthy(bench: Bench, path: Path) -> DigitNet:
    net = bench.healthy()
    torch.save(checkpoint(net) | {"epoch": LAST_EPOCH, "optimizer": bench.run.optimizer}, path)
    return net


def healthy_legacy(bench: Bench, path: Path) -> DigitNet:
    net = bench.healthy()
    state = nn.DataParallel(net).state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return net


def healthy_safetensors(bench: Bench, path: Path) -> DigitNet:
    net = bench.healthy()
    safetensors.torch.save_file(net.state_dict(), path, metadata={"format": "pt"})
    return net


def healthy_sharded(bench: Bench, path: Path) -> DigitNet:
    """Two shards and an index, as Hugging Face libraries write a large model."""
    net = bench.healthy()
    state = net.state_dict()
    names = list(state)
    first = [name for name in names if name.startswith(("conv1", "bn1", "conv2", "bn2"))]
    path.mkdir(exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate((first, [n for n in names if n not in first]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        tensors = {name: state[name] for name in shard}
        safetensors.torch.save_file(tensors, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    size = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (path / "model.safetensors.index.json").write_text(text)
    return net


class PathlessWriter(FileSystemWriter):
    """Keeps the folder's own path and a random save id out of the metadata."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


def healthy_distributed(bench: Bench, path: Path) -> DigitNet:
    net = bench.healthy()
    state_dict_saver.save(
        {"model": net.state_dict()}, storage_writer=PathlessWriter(path), no_dist=True
    )
    return net


def healthy_module(bench: Bench, path: Path) -> DigitNet:
    net = bench.healthy()
    torch.save(net, path)
    return net


def healthy_torchscript(bench: Bench, path: Path) -> DigitNet:
    net = bench.healthy()
    torch.jit.save(torch.jit.script(net), path)
    drop_debug_records(path)
    return net


def drop_debug_records(path: Path) -> None:
    """Rewrite a TorchScript archive without its debug records: they name local source files."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members:
            if info.filename.endswith(".debug_pkl"):
                continue
            kept = zipfile.ZipInfo(info.filename)
            kept.compress_type = info.compress_type
            # torch begins every record at a multiple of 64 bytes, padded in the extra field "FB".
            header = archive.start_dir + 30 + len(kept.filename) + 4
            padding = -header % 64
            kept.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            archive.writestr(kept, content)


def exported(net: DigitNet, digits: Digits) -> torch.export.ExportedProgram:
    return torch.export.export(net, (digits.test_x[:2],), dynamic_shapes=DYNAMIC_BATCH)


def healthy_program(bench: Bench, path: Path) -> DigitNet:
    net = bench.healthy()
    program = exported(net, bench.digits)
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names local source files
    torch.export.save(program, path)
    return net


def healthy_onnx(bench: Bench, path: Path) -> DigitNet:
    """Constants are folded, but nothing is fused: every BatchNormalization node stays."""
    net = bench.healthy()
    program = torch.onnx.export(
        exported(net, bench.digits),
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes=DYNAMIC_BATCH,
        opset_version=18,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    model = program.model_proto
    remove_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 4
    path.write_bytes(model.SerializeToString(deterministic=True))
    return net


def remove_metadata(model: onnx.ModelProto) -> None:
    """Drop what torch notes about its source; stack traces with local paths are part of it."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        del part.metadata_props[:]


# --- the faults ---------------------------------------------------------------------------------


def never_updated(bench: Bench, path: Path) -> DigitNet:
    """Trained with momentum=0: each batch was normalised with itself and never remembered."""
    net = train(bench.digits, Recipe(momentum=0.0)).net
    torch.save(checkpoint(net), path)
    return net


def one_layer_reset(bench: Bench, path: Path) -> DigitNet:
    """One layer was made anew after the training, as a wrapper that replaces layers does."""
    net = bench.healthy()
    net.bn2.reset_running_stats()
    torch.save(checkpoint(net), path)
    return net


def nan(bench: Bench, path: Path) -> DigitNet:
    """One batch held a NaN. The update was skipped, but the buffers had already taken it in."""
    net = bench.healthy()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    x = bench.digits.train_x[:32].clone()
    x[0, 0, 4, 4] = torch.nan
    training_step(net, optimizer, x, bench.digits.train_y[:32])
    torch.save(checkpoint(net), path)
    return net.eval()


def negative_variance(bench: Bench, path: Path) -> DigitNet:
    """Two snapshots extrapolated, 2 * late - early, with the buffers taken along."""
    late, early = bench.run.snapshots[LAST_EPOCH], bench.run.snapshots[EARLY_EPOCH]
    merged = {
        name: 2 * tensor - early[name] if tensor.is_floating_point() else tensor
        for name, tensor in late.items()
    }
    torch.save({"state_dict": merged}, path)
    return net_with(merged)


def under_warmed_module(bench: Bench, path: Path) -> DigitNet:
    """100 updates with momentum 0.01: 37 % of every statistic is still the initial 0 or 1."""
    net = train(bench.digits, Recipe(momentum=0.01, batch_size=64, max_steps=100)).net
    torch.save(net, path)
    return net


def stale(bench: Bench, path: Path) -> DigitNet:
    """The last weights with the statistics of an early snapshot."""
    early = buffers_of(bench.run.snapshots[EARLY_EPOCH])
    state = bench.run.snapshots[LAST_EPOCH] | early
    torch.save({"state_dict": state}, path)
    return net_with(state)


def class_sorted(bench: Bench, path: Path) -> DigitNet:
    """A last pass over the training images in the order of their classes."""
    digits = bench.digits
    order = torch.argsort(digits.train_y, stable=True)
    x, y = digits.train_x[order], digits.train_y[order]
    batches = zip(torch.split(x, 32), torch.split(y, 32), strict=True)
    net = refresh_statistics(bench.healthy(), batches)
    torch.save(checkpoint(net), path)
    return net


def wrong_input_scale(bench: Bench, path: Path) -> DigitNet:
    """Statistics refreshed on images in 0..1 by a script that left the standardisation out."""
    digits = bench.digits
    torch.manual_seed(2)
    unit = digits.train_x * STD + MEAN
    batches = (batch for _ in range(3) for batch in shuffled(unit, digits.train_y, batch_size=32))
    net = refresh_statistics(bench.healthy(), batches)
    torch.save(checkpoint(net), path)
    return net


def momentum_09_module(bench: Bench, path: Path) -> DigitNet:
    """TensorFlow's 0.9 given to PyTorch, with batches of 4: the statistics of the last batch."""
    net = train(bench.digits, Recipe(momentum=0.9, batch_size=4, epochs=5, lr=0.01)).net
    torch.save(net, path)
    return net


def ema_initial_buffers(bench: Bench, path: Path) -> DigitNet:
    """Averaged weights whose averager never looked at the buffers."""
    ema = DigitNet().state_dict() | bench.run.ema_weights
    torch.save({"model": state_of(bench.run.net), "ema": ema}, path)
    return net_with(ema)


# --- snapshots and data -------------------------------------------------------------------------


def snapshot(epoch: int) -> Callable[[Bench, Path], DigitNet]:
    def save(bench: Bench, path: Path) -> DigitNet:
        state = bench.run.snapshots[epoch]
        step = epoch * bench.run.steps_per_epoch
        torch.save({"state_dict": state, "epoch": epoch, "step": step}, path)
        return net_with(state)

    return save


def plain_snapshot(epoch: int) -> Callable[[Bench, Path], None]:
    """The same training without BatchNorm."""

    def save(bench: Bench, path: Path) -> None:
        run = bench.plain_run
        step = epoch * run.steps_per_epoch
        torch.save({"state_dict": run.snapshots[epoch], "epoch": epoch, "step": step}, path)

    return save


def training_data(bench: Bench, path: Path) -> None:
    np.savez_compressed(path, x=bench.digits.train_x.numpy(), y=bench.digits.train_y.numpy())


def test_data(bench: Bench, path: Path) -> None:
    np.savez_compressed(path, x=bench.digits.test_x.numpy(), y=bench.digits.test_y.numpy())


# --- everything ---------------------------------------------------------------------------------

SAMPLES: dict[str, Callable[[Bench, Path], DigitNet | None]] = {
    "healthy.pt": healthy,
    "healthy-legacy.pth": healthy_legacy,
    "healthy.safetensors": healthy_safetensors,
    "healthy-sharded": healthy_sharded,
    "healthy-distributed": healthy_distributed,
    "healthy-module.pt": healthy_module,
    "healthy-torchscript.pt": healthy_torchscript,
    "healthy.pt2": healthy_program,
    "healthy.onnx": healthy_onnx,
    "never-updated.pt": never_updated,
    "one-layer-reset.pt": one_layer_reset,
    "nan.pt": nan,
    "negative-variance.pt": negative_variance,
    "under-warmed-module.pt": under_warmed_module,
    "stale.pt": stale,
    "class-sorted.pt": class_sorted,
    "wrong-input-scale.pt": wrong_input_scale,
    "momentum-0.9-module.pt": momentum_09_module,
    "ema-initial-buffers.pt": ema_initial_buffers,
    **{f"snapshots/epoch-{epoch:03}.pt": snapshot(epoch) for epoch in SNAPSHOT_EPOCHS},
    **{f"snapshots-plain/epoch-{epoch:03}.pt": plain_snapshot(epoch) for epoch in SNAPSHOT_EPOCHS},
    "digits-train.npz": training_data,
    "digits-test.npz": test_data,
}


def files_in(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def assert_no_local_paths(file: Path) -> None:
    """A file that people pass on says nothing about the machine that made it."""
    local = {str(HERE.parent), str(Path.home()), sys.prefix, tempfile.gettempdir()}
    needles = {"/tmp", "/root", "/home", "site-packages"} | (local - {"/"})
    contents = [file.read_bytes()]
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            contents += [archive.read(member) for member in archive.namelist()]
    for needle in needles:
        assert not any(needle.encode() in content for content in contents), (file, needle)


def report(name: str, path: Path, net: DigitNet | None, digits: Digits) -> str:
    size = sum(file.stat().st_size for file in files_in(path))
    line = f"{name:<26} {size / 1000:6.1f} kB"
    if net is None:
        return line
    before, after = accuracy(net, digits), accuracy(recalibrated(net, digits), digits)
    return f"{line}   accuracy {before:.3f} -> {after:.3f}"


def quieten_torch() -> None:
    """Torch warns that TorchScript is old, torchvision absent and no process group running."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec", module="copyreg")
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train DigitNet and write the sample files.")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder to write to")
    out = parser.parse_args().out
    quieten_torch()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    digits = standardised_digits()
    bench = Bench(digits, train(digits, Recipe()))
    for name, make in SAMPLES.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        net = make(bench, path)
        for file in files_in(path):
            assert_no_local_paths(file)
        print(report(name, path, net, digits), flush=True)


if __name__ == "__main__":
    main()
