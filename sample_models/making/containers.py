"""The healthy network in every container that people keep models in."""

import json
import struct
import zipfile
from pathlib import Path

import onnx
import safetensors.torch
import torch
from nets import DigitNet
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import nn
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta

from making.digits import Digits
from making.states import checkpoint
from making.training import LAST_EPOCH, Bench

DYNAMIC_BATCH = ({0: torch.export.Dim("batch", min=1)},)


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
