"""Tensor names become layers whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bncheck.core.errors import BncheckError
from bncheck.layers.norm_layer import Assumptions, Origin, find_layers
from bncheck.layers.unjudged import unjudged
from bncheck.reading.checkpoint import Checkpoint, Container, NormModule
from bncheck.reading.kinds import NormKind, kind_of_class
from bncheck.reading.tensors import LazyTensor, LoadedTensor, TensorMap


def checkpoint(*names: str, modules: dict[str, NormModule] | None = None) -> Checkpoint:
    lazy: dict[str, LazyTensor] = {
        name: LoadedTensor(lambda: np.arange(1.0, 5.0, dtype=np.float32), (4,)) for name in names
    }
    tensors = TensorMap(lazy)
    return Checkpoint(Path("x"), Container.TORCH_ZIP, "", "", tensors, modules or {})


STATISTICS = ("running_mean", "running_var")


@pytest.mark.parametrize("name", ["bn1", "norm", "0.1", "layer1.0.downsample.1", "module.a.b", ""])
@pytest.mark.parametrize("affine", [(), ("weight",), ("weight", "bias")])
def test_any_name_with_any_parameters(name: str, affine: tuple[str, ...]) -> None:
    prefix = f"{name}." if name else ""
    (layer,) = find_layers(
        checkpoint(*(f"{prefix}{role}" for role in STATISTICS + affine)), Assumptions()
    )
    assert layer.name == name
    assert (layer.weight is None, layer.bias is None) == ("weight" not in affine, len(affine) < 2)
    assert layer.missing == ()
    assert layer.channels == 4


@pytest.mark.parametrize(
    "names",
    [
        ("bn/moving_mean", "bn/moving_variance", "bn/gamma", "bn/beta"),
        ("bn._mean", "bn._variance", "bn.weight", "bn.bias"),
    ],
    ids=["Keras", "PaddlePaddle"],
)
def test_other_frameworks_names(names: tuple[str, ...]) -> None:
    (layer,) = find_layers(checkpoint(*names), Assumptions())
    assert layer.name == "bn"
    assert layer.statistics is not None
    assert layer.weight is not None
    assert layer.bias is not None


@pytest.mark.parametrize("other", ["bn.moving_variance", "bn._variance", "bn/running_var"])
def test_two_tensors_for_one_role_are_an_error_that_names_both(other: str) -> None:
    with pytest.raises(BncheckError) as error:
        find_layers(checkpoint("bn.running_mean", "bn.running_var", other), Assumptions())
    assert "'bn.running_var'" in str(error.value)
    assert f"'{other}'" in str(error.value)


def test_what_a_module_says_and_another_statistic_of_that_name() -> None:
    """A program that uses a's mean and b's variance, beside a's own variance."""
    module = NormModule("BatchNorm", {"running_mean": STATISTICS_OF_A[0], "running_var": "b.var"})
    with pytest.raises(BncheckError, match=r"b\.var"):
        find_layers(checkpoint(*STATISTICS_OF_A, "b.var", modules={"a": module}), Assumptions())


STATISTICS_OF_A = ("a.running_mean", "a.running_var")


@pytest.mark.parametrize(
    "names",
    [
        ("bn.running_mean", "bn.running_covar"),
        (*STATISTICS_OF_A, "a.running_covar"),
        (*STATISTICS_OF_A, "a.Running_Var"),
        (*STATISTICS_OF_A, "a.runningVar"),
        ("moving_mean:1",),
    ],
)
def test_a_statistic_without_a_layer_is_reported(names: tuple[str, ...]) -> None:
    found = checkpoint(*names)
    (group,) = unjudged(found, find_layers(found, Assumptions()))
    assert set(group.names) == set(names) - set(STATISTICS_OF_A)
    assert group.finite


def test_a_bare_weight_and_bias_are_no_layer() -> None:
    assert find_layers(checkpoint("ln.weight", "ln.bias", "fc.weight"), Assumptions()) == []


def test_layers_keep_the_file_s_order() -> None:
    names = [f"{name}.{role}" for name in ("z", "a", "m") for role in STATISTICS]
    assert [x.name for x in find_layers(checkpoint(*names), Assumptions())] == ["z", "a", "m"]


def test_settings_come_from_the_file_then_the_option_then_the_default() -> None:
    module = NormModule("BatchNorm2d", {"running_mean": "a.running_mean"}, eps=1e-3)
    names = [f"{name}.{role}" for name in "ab" for role in STATISTICS]
    a, b = find_layers(checkpoint(*names, modules={"a": module}), Assumptions(2e-5, None))
    assert (a.eps.value, a.eps.origin) == (1e-3, Origin.FILE)
    assert (b.eps.value, b.eps.origin) == (2e-5, Origin.OPTION)
    assert (b.momentum.value, b.momentum.origin) == (0.1, Origin.ASSUMED)


def test_a_cumulative_average_is_known_and_has_no_momentum() -> None:
    module = NormModule("BatchNorm1d", {}, momentum=None, momentum_known=True)
    (layer,) = find_layers(checkpoint(modules={"a": module}), Assumptions(momentum=0.5))
    assert layer.momentum.value is None
    assert layer.momentum.known


@pytest.mark.parametrize(
    ("class_name", "kind"),
    [
        ("BatchNorm2d", NormKind.BATCH),
        ("BatchNormAct2d", NormKind.BATCH),
        ("InPlaceABNSync", NormKind.BATCH),
        ("SyncBatchNorm", NormKind.SYNC),
        ("SynchronizedBatchNorm2d", NormKind.SYNC),
        ("FrozenBatchNorm2d", NormKind.FROZEN),
        ("InstanceNorm3d", NormKind.INSTANCE),
        ("GroupNorm", NormKind.GROUP),
        ("LayerNormalization", NormKind.LAYER),
        ("layer_norm", NormKind.LAYER),
        ("LlamaRMSNorm", NormKind.RMS),
        ("Conv2d", None),
        ("Normalize", None),
    ],
)
def test_families_by_class_name(class_name: str, kind: NormKind | None) -> None:
    assert kind_of_class(class_name) is kind
