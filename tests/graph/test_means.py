"""Means that follow through a graph: of architectures as people build them, and of a file."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import bncheck
from bncheck.graph.dataflow import Graph
from bncheck.graph.means import predict
from bncheck.graph.pointwise import FUNCTIONS
from bncheck.graph.program.read import read_program
from bncheck.inspecting.chains import graph_chains
from bncheck.layers.means import Chains
from bncheck.layers.norm_layer import NormLayer
from bncheck.subject.module_layers import layers_of
from bncheck.subject.setup import in_memory
from tests.architectures import ARCHITECTURES, randomised
from tests.networks import SAMPLES, findings, network


@lru_cache
def _measured(name: str) -> tuple[Graph, tuple[NormLayer, ...]]:
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
    program = torch.export.export(model.eval(), (torch.randn(shape),)).run_decompositions({})
    return read_program(program), layers_of(in_memory(model))


def _judged(layers: tuple[NormLayer, ...], chains: Chains) -> list[tuple[str, str | None]]:
    found = findings(network(*layers, chains=chains))
    return [(f.severity.value, f.layer) for f in found if f.rule == "BN117"]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("resnet, bottlenecks", 14),
        ("mobilenet v3", 6),  # what lies behind a gate is not predicted
        ("densenet", 10),
        ("shufflenet", 6),
        ("u-net", 3),
    ],
)
def test_means_are_predicted_and_a_layer_in_another_order_is_found(name: str, known: int) -> None:
    graph, layers = _measured(name)
    sound = graph_chains(graph, graph.constant, layers)
    assert len(sound.found) == known
    assert min(chain.correlation for chain in sound.found) > 0.95
    assert _judged(layers, sound) == []
    chain = max(sound.found, key=lambda chain: chain.channels)
    turned = tuple(
        replace(layer, mean=np.roll(layer.mean, layer.channels // 2))
        if layer.name == chain.layer and layer.mean is not None
        else layer
        for layer in layers
    )
    assert _judged(turned, graph_chains(graph, graph.constant, turned)) == [("error", chain.layer)]


def test_statistics_of_other_weights_everywhere_are_a_warning_for_the_model() -> None:
    graph, layers = _measured("resnet, bottlenecks")
    turned = tuple(replace(layer, mean=-np.asarray(layer.mean, "f8")) for layer in layers)
    assert _judged(turned, graph_chains(graph, graph.constant, turned)) == [("warning", None)]


def test_an_onnx_file_whose_layer_is_permuted_says_what_it_rests_on(tmp_path: Path) -> None:
    model = onnx.load(SAMPLES / "healthy.onnx")
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    name = norms[2].input[3]
    for tensor in model.graph.initializer:
        if tensor.name == name:
            numbers = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.roll(numbers, 7), name))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    (found,) = bncheck.inspect(path, select=["BN117"]).findings
    assert found.severity == "error"
    assert found.layer == name.rpartition(".")[0]
    assert "affine and" in found.message
    assert not bncheck.inspect(SAMPLES / "healthy.onnx", select=["BN117"]).findings


@pytest.mark.parametrize("name", sorted({*FUNCTIONS} - {"clip", "erf", "exp"}))
def test_functions_are_torch_s(name: str) -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    theirs = getattr(torch, name, None) or getattr(nn.functional, name)
    assert FUNCTIONS[name](x.numpy()) == pytest.approx(theirs(x).numpy(), abs=2e-3)


def test_a_model_and_its_data_say_which_layer_of_a_bare_file(tmp_path: Path) -> None:
    """Where data and statistics differ, and by the names that the file has."""
    from bncheck.inspecting.command import inspect
    from bncheck.inspecting.from_file import InspectOptions
    from bncheck.subject.setup import Measuring

    state = torch.load(SAMPLES / "healthy.pt", weights_only=True)["state_dict"]
    name = [name for name in state if name.endswith("running_mean")][2]
    bad = {f"module.{key}": tensor for key, tensor in state.items()}
    bad[f"module.{name}"] = state[name].roll(7)
    torch.save(bad, tmp_path / "net.pt")
    measuring = Measuring(f"{SAMPLES}/nets.py:DigitNet", str(SAMPLES / "digits-train.npz"))
    report = inspect(tmp_path / "net.pt", InspectOptions(), measuring)
    found = [f for f in report.findings if f.rule == "BN117"]
    layer = f"module.{name.rpartition('.')[0]}"
    assert [f.layer for f in found] == [layer]
    # The measurement proves it, and what it finds is the cause: the prediction is a note beside it.
    assert [f.layer for f in report.findings if f.severity.value == "error"] == [layer]


@pytest.mark.parametrize("name", ["resnet, bottlenecks", "densenet"])
def test_small_images_matter_to_padded_kernels_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that see no padding are not read again, and what is predicted is the same."""
    graph, _ = _measured(name)
    read: list[str] = []

    def weights(value: str) -> Any:
        read.append(value)
        return graph.constant(value)

    wide = {p.label: p.mean for p in predict.predicted_means(graph, weights)}
    kernels = {value for value in read if len(graph.shape(value) or ()) == 4}
    read.clear()
    small = {p.label: p.mean for p in predict.predicted_means(graph, weights, 1)}
    assert len(kernels.intersection(read)) < len(kernels)
    monkeypatch.setattr(predict, "_around_padding", lambda graph: range(len(graph.ops)))
    every = {p.label: p.mean for p in predict.predicted_means(graph, weights, 1)}
    assert every.keys() == wide.keys()
    assert 0 < len(small) < len(wide)
    for label, mean in every.items():
        np.testing.assert_array_equal(mean, small[label] if label in small else wide[label])
