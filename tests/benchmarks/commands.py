"""Whole commands, each in a process of its own, and what others do with the same files."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.benchmarks.process import BNCHECK, ROOT, Cost, in_turns
from tests.benchmarks.table import Peer, Row

SAMPLE = str(ROOT / "sample_models" / "healthy.pt")
CONFIG = "[tool.bncheck.severity]\nBN110 = 'warning'\n"
NETWORKS = "tests.benchmarks.networks"
ORT = """
import sys, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.optimized_model_filepath = sys.argv[2]
options.intra_op_num_threads = 1
ort.InferenceSession(sys.argv[1], options)
"""
SLIM = "import sys, onnxslim; onnxslim.slim(sys.argv[1], sys.argv[2])"
PLAIN = """
import sys, torch
from tests.benchmarks import networks
model = getattr(networks, sys.argv[1])()
model.load_state_dict(torch.load(sys.argv[2]))
torch.onnx.export(model.eval(), (torch.randn(2, 3, 224, 224),), sys.argv[3], dynamo=True,
                  external_data=False, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
"""
#: A program with a free batch, which is what a fold begins with.
_FREE = """
import sys, torch
from tests.benchmarks import networks
model, x = getattr(networks, sys.argv[1])(), torch.randn(2, 3, 64, 64)
"""
FOLD = f"""{_FREE}
import bncheck
bncheck.fold(model, (x,))
"""
EXPORT = f"""{_FREE}
program = torch.export.export(model, (x,), dynamic_shapes=({{0: torch.export.Dim.AUTO}},))
if len(sys.argv) > 2: torch.export.save(program, sys.argv[2])
"""
TORCH_LOAD = """
import sys, torch
for path in sys.argv[1:]:
    torch.load(path, map_location="cpu", weights_only=True, mmap=len(sys.argv) == 2)
"""
SAFE_OPEN = """
import sys, safetensors
with safetensors.safe_open(sys.argv[1], "numpy") as file:
    for name in file.keys(): file.get_tensor(name)
"""
EVAL = """
import sys, numpy, torch
from tests.benchmarks import networks
model = networks.resnet18()
model.load_state_dict(torch.load(sys.argv[1]))
images = torch.from_numpy(numpy.load(sys.argv[2])["x"][:int(sys.argv[3])])
model.eval()
with torch.no_grad():
    for batch in images.split(64):
        model(batch)
"""
ONNX_LOAD = "import sys, onnx; onnx.load(sys.argv[1])"

Line = Sequence[str]
Peers = Mapping[str, tuple[str, Line]]


def row(work: str, wanted: str, ours: Line, peers: Peers | None = None, code: str = BNCHECK) -> Row:
    """Ours is a command line of bncheck; a peer is a library and arguments of `python -c`."""
    peers = peers or {}
    there = {name: line for name, (needs, line) in peers.items() if importlib.util.find_spec(needs)}
    first, *others = in_turns([[code, *ours], *there.values()])
    costs: dict[str, Cost] = dict(zip(there, others, strict=True))
    found = [
        Peer(name, costs[name].cpu, costs[name].peak) if name in costs else Peer(name, None)
        for name in peers
    ]
    return Row(work, first.cpu, tuple(found), first.peak, wanted=wanted)


def starting(folder: Path) -> Iterator[Row]:
    python = {"Python and numpy": ("numpy", ["import numpy"])}
    yield row("`--version`", "0.04", ["--version"])
    yield row("`inspect` of a small file", "0.20", ["inspect", "--isolated", SAMPLE], python)
    config = folder / "pyproject.toml"
    config.write_text(CONFIG)
    configured = ["inspect", "--config", str(config), SAMPLE]
    yield row("the same with `[tool.bncheck]`", "0.25", configured)


def reading(folder: Path) -> Iterator[Row]:
    for name, library, code, wanted in (
        ("large.pt", "torch", TORCH_LOAD, ""),
        ("large.safetensors", "safetensors", SAFE_OPEN, ""),
        ("large.onnx", "onnx", ONNX_LOAD, "0.4, 60 MiB"),
    ):
        path = str(folder / name)
        peer = {"torch": "torch.load, mapped", "onnx": "onnx.load"}.get(library, "safe_open")
        peers = {peer: (library, [code, path])}
        yield row(
            f"`inspect` of 1.1 GB, {path[path.rindex('.') :]}", wanted, ["inspect", path], peers
        )
    many, tensors = str(folder / "many.pt"), str(folder / "many.safetensors")
    load = {"torch.load": ("torch", [TORCH_LOAD, many])}
    yield row("`inspect` of 10,000 layers, .pt", "4", ["inspect", many], load)
    safe = {"safe_open": ("safetensors", [SAFE_OPEN, tensors])}
    yield row("`inspect` of 10,000 layers, .safetensors", "1.5", ["inspect", tensors], safe)
    verbose = ["inspect", "--verbose", tensors]
    yield row("the same with `--verbose`", "twice as much", verbose)
    chunks = ["inspect", str(folder / "distributed")]
    yield row("`inspect` of a distributed checkpoint, 550 chunks", "0.35", chunks)
    files = [str(path) for path in sorted((folder / "snapshots").iterdir())]
    load = {"torch.load": ("torch", [TORCH_LOAD, *files])}
    yield row(f"`drift` over {len(files)} snapshots of 1.1 MB", "3", ["drift", *files], load)


def onnx_files(folder: Path) -> Iterator[Row]:
    for name, title, wanted in (
        ("resnet50", "`fold` of an ONNX ResNet-50", "1"),
        ("densenet121", "`fold` of an ONNX DenseNet-121", "1"),
        ("efficientnet_b0", "`fold` of an ONNX EfficientNet-B0", "1"),
        ("pooled", "`fold` of an ONNX file without BatchNorm, 0.2 MB", "0.4"),
    ):
        path, peer = str(folder / f"{name}.onnx"), str(folder / "peer.onnx")
        peers = {"onnxruntime offline": ("onnxruntime", [ORT, path, peer]),
                 "OnnxSlim": ("onnxslim", [SLIM, path, peer])}  # fmt: skip
        yield row(title, wanted, ["fold", path, "-o", str(folder / f"{name}-folded.onnx")], peers)
    pair = [str(folder / "resnet50.onnx"), str(folder / "resnet50-folded.onnx")]
    yield row("`compare` of two ONNX files of 97 MiB", "5, 900 MiB", ["compare", *pair])


def models(folder: Path) -> Iterator[Row]:
    def arguments(name: str) -> list[str]:
        size = ["--input", "3,224,224"]
        return [str(folder / f"{name}.pt"), "--model", f"{NETWORKS}:{name}", *size]

    out, plain = str(folder / "folded.pt2"), str(folder / "plain.pt2")
    saved = {"torch.export, saved": ("torch", [EXPORT, "resnet50", plain])}
    yield row(
        "`fold` of a ResNet-50 to .pt2", "", ["fold", *arguments("resnet50"), "-o", out], saved
    )
    in_memory = {"torch.export": ("torch", [EXPORT, "resnet50"])}
    work, wanted = "a process that calls `fold(model, x)` on a ResNet-50", "0.8 s, 150 MiB more"
    yield row(work, wanted, ["resnet50"], in_memory, FOLD)
    for name, title in (("resnet50", "ResNet-50"), ("densenet121", "DenseNet-121")):
        weights, plain = str(folder / f"{name}.pt"), str(folder / f"{name}-plain.onnx")
        peers = {"torch.onnx.export": ("onnxscript", [PLAIN, name, weights, plain])}
        command = ["export", *arguments(name), "-o", str(folder / f"{name}-exported.onnx")]
        yield row(f"`export` of a {title}", "1.7 times torch's, 1.2 of its memory", command, peers)


def measured(folder: Path) -> Iterator[Row]:
    """Beside a script that loads the same model and runs it on the same data, once."""
    images, samples = str(folder / "images.npz"), 256
    for name, work in (("healthy", "`inspect` with data"), ("stale", "the same, stale")):
        path = str(folder / f"{name}.pt")
        data = ["--data", images, "--max-samples", str(samples)]
        line = ["inspect", path, "--model", f"{NETWORKS}:resnet18", *data]
        peers = {"a script that runs it": ("torch", [EVAL, path, images, str(samples)])}
        yield row(f"{work}, {samples} samples", "", line, peers)


def processes(folder: Path) -> Iterator[Row]:
    """By the clock: two processes measure what one would, in half the time at best."""
    inspect = ["inspect", str(folder / "stale.pt"), "--model", f"{NETWORKS}:resnet18", "--data",
               str(folder / "images.npz"), "--max-samples"]  # fmt: skip
    module = "import runpy, sys; sys.argv[0] = 'torchrun'; runpy.run_module('torch.distributed.run'"
    torchrun = [f"{module}, run_name='__main__')", "--nproc-per-node", "2"]
    nothing = [*torchrun, "--no-python", sys.executable, "-c", "import torch"]
    for samples in ("512", "2048"):  # in the former, starting takes longer than measuring
        line = [*inspect, samples]
        ours, one = [*torchrun, "-m", "bncheck", *line], [BNCHECK, *line]
        together, alone, floor = in_turns([ours, one, nothing])
        work = f"`inspect` with data, stale, {int(samples):,} samples, in two processes (torchrun)"
        peers = (Peer("one process", alone.wall), Peer("importing torch so", floor.wall))
        yield Row(f"{work}, by the clock", together.wall, peers, wanted="1 / 1.8")


def rows(folder: Path) -> Iterator[Row]:
    """All of them, on what `build` has put into the folder."""
    for part in (starting, reading, onnx_files, models, measured, processes):
        yield from part(folder)
