"""The graph that a file lists is the one that torch has."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import nn

import bncheck
from bncheck.graph.aten.operators import OPERATORS
from bncheck.graph.aten.signatures import signatures
from bncheck.graph.listed.read import read_listing
from bncheck.graph.program.read import read_program
from bncheck.inspecting.chains import chains_of, graph_chains
from bncheck.layers.means import Chains
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading.opening import open_checkpoint
from bncheck.subject.module_layers import layers_of
from bncheck.subject.setup import in_memory
from tests.architectures import ARCHITECTURES, randomised


@lru_cache
def _fitted(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """An architecture with random affines, and statistics of smooth random images."""
    build, shape = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = randomised(build())
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        coarse = torch.randn(16, shape[1], 4, 4)
        model.train()(nn.functional.interpolate(coarse, size=shape[2:], mode="bilinear"))
    return model.eval(), shape


@lru_cache
def _program(name: str) -> torch.export.ExportedProgram:
    model, shape = _fitted(name)
    return torch.export.export(model, (torch.randn(shape),))


def _written(name: str, form: str) -> io.BytesIO:
    (model, shape), file = _fitted(name), io.BytesIO()
    x = torch.randn(shape)
    if form == "traced":
        torch.jit.save(torch.jit.trace(model, x), file)  # type: ignore[no-untyped-call]
    elif form == "scripted":
        torch.jit.save(torch.jit.script(model), file)
    else:
        program = _program(name)
        torch.export.save(program.run_decompositions() if form == "core" else program, file)
    return file


@lru_cache
def _torch_s_chains(name: str) -> Chains:
    graph = read_program(_program(name).run_decompositions({}))
    return graph_chains(graph, graph.constant, layers_of(in_memory(_fitted(name)[0])))


def _chains(path: Path) -> Chains:
    checkpoint = open_checkpoint(path)
    return chains_of(checkpoint, tuple(find_layers(checkpoint, Assumptions(None, None))))


@pytest.mark.parametrize("form", ["exported", "core", "traced", "scripted"])
@pytest.mark.parametrize("name", ["mobilenet v3", "u-net"])
def test_a_file_predicts_what_its_program_does(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(_written(name, form).getvalue())
    ours = _chains(path)
    theirs = _torch_s_chains(name)
    assert ours.certain
    assert ours.number == theirs.number
    expected = {c.layer: (c.correlation, c.deviation) for c in theirs.found}
    assert {c.layer for c in ours.found} == expected.keys()
    for chain in ours.found:
        assert (chain.correlation, chain.deviation) == pytest.approx(
            expected[chain.layer], abs=1e-3
        )


@pytest.mark.parametrize("form", ["traced", "scripted"])
def test_a_layer_in_another_order_of_channels_is_found_in_a_file(form: str, tmp_path: Path) -> None:
    model, _ = _fitted("resnet, bottlenecks")
    name, norm = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)][4]
    sound = norm.running_mean
    assert sound is not None
    path = tmp_path / "net.pt"
    path.write_bytes(_written("resnet, bottlenecks", form).getvalue())
    assert bncheck.inspect(path, select=["BN117"]).findings == ()
    norm.running_mean = sound.roll(5)
    try:
        path.write_bytes(_written("resnet, bottlenecks", form).getvalue())
    finally:
        norm.running_mean = sound
    (found,) = bncheck.inspect(path, select=["BN117"]).findings
    assert (found.severity, found.layer) == ("error", name)


def test_signatures_are_torch_s() -> None:
    for name, arguments in signatures().items():
        assert name in OPERATORS
        packet = getattr(torch.ops.aten, name)
        overloads = [
            {a.name: a for a in getattr(packet, o)._schema.arguments} for o in packet.overloads()
        ]
        assert {*arguments} <= {n for o in overloads for n in o}, name
        for argument, value in arguments.items():
            if value is ... or value is None:
                continue
            defaults = [o[argument].default_value for o in overloads if argument in o]
            told = [
                d if not isinstance(d, list) else (tuple(d) if len({*d}) != 1 else d[0])
                for d in defaults
            ]
            assert value in told or (value == () and [] in defaults), (name, argument)


class _InPlace(nn.Module):
    """What is changed in place is another value afterwards, for whoever holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.norm, self.behind = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))
        kept = x
        torch.relu_(x)
        out: torch.Tensor = self.behind(self.second(kept))
        return out


def test_a_change_in_place_is_seen_by_whoever_holds_the_tensor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _InPlace()
    with torch.no_grad():
        for norm in (model.norm, model.behind):
            norm.momentum = None
        model.norm.bias.normal_()
        model.norm.weight.uniform_(0.5, 2)
        model(torch.randn(64, 3, 12, 12))
    path = tmp_path / "net.pt"
    traced = torch.jit.trace(model.eval(), torch.randn(2, 3, 12, 12))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, path)
    (chain,) = _chains(path).found
    assert chain.layer == "behind"
    assert chain.deviation < 0.1


def test_code_that_calls_itself_is_left_to_the_order_of_tensors(tmp_path: Path) -> None:
    """Nothing of a file's code is executed, and a walk through it ends."""
    from zipfile import ZipFile

    path, bad = tmp_path / "net.pt", tmp_path / "bad.pt"
    path.write_bytes(_written("u-net", "traced").getvalue())
    with ZipFile(path) as archive, ZipFile(bad, "w") as other:
        for item in archive.infolist():
            data = archive.read(item)
            if item.filename.endswith(".py") and b"class ConvTranspose2d" in data:
                head = data.decode().partition("    argument_1: Tensor) -> Tensor:\n")
                body = "    return (self).forward((self).forward(argument_1, ), )\n"
                data = f"{head[0]}{head[1]}{body}".encode()
            other.writestr(item.filename, data)
    assert not _chains(bad).certain


def test_a_listing_of_nothing_is_a_graph_of_nothing() -> None:
    from bncheck.reading.listing import ListedCall, Listing, Ref

    listing = Listing(
        (
            ListedCall("conv2d", (Ref("%x"),), ("%1",)),
            ListedCall("batch_norm", (), ("%2",)),
            ListedCall("no_such", (Ref("%1"), "?", 3), ("%3",)),
            ListedCall("permute", (Ref("w"), (7, 9)), ("%4",)),
        )
    )
    graph = read_listing(listing, {})
    assert [type(op.spec).__name__ for op in graph.ops] == ["Opaque"] * 4
