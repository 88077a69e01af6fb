"""Every layout of the zoo is read as it was written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from bncheck.layers.norm_layer import Assumptions, NormLayer, Origin, find_layers
from bncheck.reading.opening import open_checkpoint
from tests.zoo import onnx_models
from tests.zoo.layout import NET_SETTINGS, ROLES, Layout, Settings
from tests.zoo.menagerie import build, kept, names

NOTHING_GIVEN = Assumptions()


@pytest.fixture(scope="module")
def menagerie(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Layout]:
    """All layouts, each in a folder of its own."""
    layouts = kept()
    return build(tmp_path_factory.mktemp("zoo")) if layouts is None else layouts


def settings_of(layer: NormLayer) -> Settings:
    """What of a layer's settings comes from the file."""
    knows_momentum = layer.momentum.origin is Origin.FILE
    return Settings(
        layer.eps.value if layer.eps.origin is Origin.FILE else None,
        layer.momentum.value if knows_momentum else None,
        layer.training,
        knows_momentum,
    )


@pytest.mark.parametrize("name", names())
def test_layout(name: str, menagerie: dict[str, Layout]) -> None:
    expected = menagerie[name]
    checkpoint = open_checkpoint(expected.path)
    assert (checkpoint.container.value, checkpoint.key) == (expected.container, expected.key)
    assert expected.prefix is None or checkpoint.prefix == expected.prefix
    assert sorted(checkpoint.tensors) == sorted(expected.tensors)
    for tensor, numbers in expected.tensors.items():
        found = checkpoint.tensors[tensor]
        assert (tensor, found.dtype, found.shape) == (tensor, numbers.dtype, numbers.shape)
        assert found.tobytes() == numbers.tobytes(), tensor
        lazy = checkpoint.tensors.lazy[tensor]
        assert lazy.shape in (None, numbers.shape)

    layers = {layer.name: layer for layer in find_layers(checkpoint, NOTHING_GIVEN)}
    assert {name: settings_of(layer) for name, layer in layers.items()} == expected.layers
    assert list(layers) == list(expected.layers)  # in the order of the file
    assert {name: layers[name].kind.value for name in expected.kinds} == expected.kinds


@pytest.mark.parametrize("name", names())
def test_layers_carry_their_own_numbers(name: str, menagerie: dict[str, Layout]) -> None:
    """Where tensors are named after their layer, each role of a layer is the tensor so named."""
    expected = menagerie[name]
    layers = {
        layer.name: layer for layer in find_layers(open_checkpoint(expected.path), NOTHING_GIVEN)
    }
    for tensor, numbers in expected.tensors.items():
        owner, _, role = tensor.rpartition(".")
        if owner in layers and role in ROLES:
            part = {"running_mean": "mean", "running_var": "var"}.get(role, role)
            found = getattr(layers[owner], part)
            assert found is not None, tensor
            assert found.tobytes() == numbers.tobytes(), tensor
        if owner in layers and role == "num_batches_tracked":
            assert layers[owner].batches == float(numbers)


def test_given_settings_fill_in_what_the_file_does_not_say(menagerie: dict[str, Layout]) -> None:
    given = Assumptions(eps=0.5, momentum=0.25)
    for name, told in (("zip-bare", False), ("module-own-class", True)):
        for layer in find_layers(open_checkpoint(menagerie[name].path), given):
            if told:
                assert settings_of(layer) == NET_SETTINGS[layer.name]
            else:
                assert (layer.eps.value, layer.momentum.value) == (0.5, 0.25)
                assert layer.eps.origin is layer.momentum.origin is Origin.OPTION


def test_branches_of_an_if_may_use_the_same_names(tmp_path: Path) -> None:
    """ONNX scopes names by subgraph; its checker and onnxruntime take such a model."""
    then, other = onnx_models.branch("a", 0, "then_y"), onnx_models.branch("a", 1, "else_y")
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    model = onnx_models.onnx_model([node], {"c": np.array(True)})
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "model.onnx")
    layers = find_layers(open_checkpoint(tmp_path / "model.onnx"), NOTHING_GIVEN)
    means = [layer.mean.tolist() for layer in layers if layer.mean is not None]
    expected = [onnx_models.onnx_values("a", seed)["a.running_mean"].tolist() for seed in (0, 1)]
    assert sorted(means) == sorted(expected)


_READ_ALL = """
import sys
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading.opening import open_checkpoint
for path in sys.argv[1:]:
    try:
        find_layers(open_checkpoint(path), Assumptions())
    except Exception:
        pass  # test_layout says what is wrong; here only imports count
print(*(name for name in ("torch", "tests") if name in sys.modules))
"""


def test_reading_imports_no_torch(menagerie: dict[str, Layout]) -> None:
    paths = [str(expected.path) for expected in menagerie.values()]
    command = [sys.executable, "-c", _READ_ALL, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
