"""Train DigitNet on scikit-learn's digits and write every file of this folder.

    python sample_models/train.py [--out FOLDER]

Needs torch, scikit-learn, safetensors, onnx and onnxscript. Every training is seeded and runs on
one thread, so a second run gives the same weights. One line is printed for each file: its size and,
where there is a network in it, the accuracy on the test images in eval mode, before and after its
statistics are measured anew on the training images with the weights left as they are.
"""

import argparse
import logging
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from making import containers, faults, series
from making.digits import Digits, standardised_digits
from making.measuring import accuracy, recalibrated
from making.training import SNAPSHOT_EPOCHS, Bench, Recipe, train
from nets import DigitNet

HERE = Path(__file__).resolve().parent

SAMPLES: dict[str, Callable[[Bench, Path], DigitNet | None]] = {
    "healthy.pt": containers.healthy,
    "healthy-legacy.pth": containers.healthy_legacy,
    "healthy.safetensors": containers.healthy_safetensors,
    "healthy-sharded": containers.healthy_sharded,
    "healthy-distributed": containers.healthy_distributed,
    "healthy-module.pt": containers.healthy_module,
    "healthy-torchscript.pt": containers.healthy_torchscript,
    "healthy.pt2": containers.healthy_program,
    "healthy.onnx": containers.healthy_onnx,
    "never-updated.pt": faults.never_updated,
    "one-layer-reset.pt": faults.one_layer_reset,
    "nan.pt": faults.nan,
    "negative-variance.pt": faults.negative_variance,
    "under-warmed-module.pt": faults.under_warmed_module,
    "stale.pt": faults.stale,
    "class-sorted.pt": faults.class_sorted,
    "wrong-input-scale.pt": faults.wrong_input_scale,
    "momentum-0.9-module.pt": faults.momentum_09_module,
    "ema-initial-buffers.pt": faults.ema_initial_buffers,
    **{f"snapshots/epoch-{epoch:03}.pt": series.snapshot(epoch) for epoch in SNAPSHOT_EPOCHS},
    **{
        f"snapshots-plain/epoch-{epoch:03}.pt": series.plain_snapshot(epoch)
        for epoch in SNAPSHOT_EPOCHS
    },
    "record": series.record,
    "record-plain": series.plain_record,
    "digits-train.npz": series.training_data,
    "digits-test.npz": series.test_data,
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
