"""Files of other frameworks, laid out as these write them: read, or refused, never healthy."""

from __future__ import annotations

import collections
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.inspecting.command import inspect
from bncheck.inspecting.report import InspectReport

Arrays = dict[str, np.ndarray]
ROLES = ("weight", "bias", "running_mean", "running_var")
LAYERS = ("bn1", "bn2")


def numbers(nan: bool = False) -> list[Arrays]:
    """Two sound layers, the second with a NaN in its variance or not."""
    made = []
    for channels in (4, 6):
        spread = np.linspace(0.5, 1.5, channels, dtype=np.float32)
        made.append(dict(zip(ROLES, (spread, spread - 1, spread - 0.7, 2 * spread), strict=True)))
    made[1]["running_var"][2] = np.nan if nan else 2.0
    return made


def named(pattern: dict[str, str], nan: bool, names: tuple[str, ...] = LAYERS) -> Arrays:
    """Each role's tensor under the name that the pattern gives it."""
    return {
        pattern[role].format(layer): tensor
        for layer, tensors in zip(names, numbers(nan), strict=True)
        for role, tensor in tensors.items()
        if role in pattern
    }


def roles(*patterns: str) -> dict[str, str]:
    return dict(zip(ROLES, patterns, strict=True))


FLAT = {
    "flax": roles("params.{}.scale", "params.{}.bias", "batch_stats.{}.mean", "batch_stats.{}.var"),
    "flax in a state": roles(
        "state/params/{}/scale", "state/params/{}/bias",
        "state/batch_stats/{}/mean", "state/batch_stats/{}/var"),
    "flax nnx": roles("{}.scale.value", "{}.bias.value", "{}.mean.value", "{}.var.value"),
    "haiku": roles(
        "params/net/~/{}/scale", "params/net/~/{}/offset",
        "state/net/~/{}/~/mean_ema/average", "state/net/~/{}/~/var_ema/average"),
    "keras 3": roles(*(f"layers/batch_normalization_{{}}/vars/{i}" for i in range(4))),
    "keras 3, dotted": roles(*(f"layers.{{}}.vars.{i}" for i in range(4))),
    "keras variables": roles("{}/gamma:0", "{}/beta:0", "{}/moving_mean:0", "{}/moving_variance:0"),
    "paddle": roles("{}.weight", "{}.bias", "{}._mean", "{}._variance"),
    "chainer": roles("{}/gamma", "{}/beta", "{}/avg_mean", "{}/avg_var"),
}  # fmt: skip


def as_npz(path: Path, tensors: Arrays) -> None:
    np.savez(path, **tensors)  # type: ignore[arg-type]


def as_small_npz(path: Path, tensors: Arrays) -> None:
    np.savez_compressed(path, **tensors)  # type: ignore[arg-type]


def as_safetensors(path: Path, tensors: Arrays) -> None:
    save_file(tensors, path)


WRITERS = {
    "net.safetensors": as_safetensors, "net.npz": as_npz, "small.npz": as_small_npz,
}  # fmt: skip


def check(path: Path, nan: bool) -> InspectReport:
    """Two layers with all four tensors, and BN102 for the one with a NaN."""
    report = inspect(path)
    assert [layer.channels for layer in report.layers] == [4, 6]
    for layer, tensors in zip(report.layers, numbers(nan), strict=True):
        for mine, role in zip(
            (layer.weight, layer.bias, layer.mean, layer.var), ROLES, strict=True
        ):
            np.testing.assert_array_equal(mine, tensors[role])
    assert [finding.rule for finding in report.findings] == (["BN102"] if nan else [])
    return report


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("layout", FLAT)
def test_layers_of_other_frameworks_are_read(
    layout: str, file: str, nan: bool, tmp_path: Path
) -> None:
    tensors = named(FLAT[layout], nan)
    tensors["params.conv.kernel"] = np.ones((3, 3, 1, 4), np.float32)
    WRITERS[file](tmp_path / file, tensors)
    check(tmp_path / file, nan)


def test_keras_layers_without_gamma_or_beta(tmp_path: Path) -> None:
    moments = [tensors[role] for tensors in numbers()[:1] for role in ROLES[2:]]
    path = tmp_path / "net.npz"
    as_npz(path, {f"layers/batch_normalization/vars/{i}": array for i, array in enumerate(moments)})
    (layer,) = inspect(path).layers
    assert layer.weight is None
    np.testing.assert_array_equal(layer.var, moments[1])


def nested(names: Arrays, separator: str = ".") -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in names.items():
        *parts, last = name.split(separator)
        here = tree
        for part in parts:
            here = here.setdefault(part, {})
        here[last] = array
    return tree


@pytest.mark.parametrize("nan", [False, True])
def test_nested_dicts_of_flax(nan: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps({"epoch": 3, **nested(named(FLAT["flax"], nan))}))
    check(path, nan)


@pytest.mark.parametrize("nan", [False, True])
def test_pairs_of_name_and_array_as_paddle_writes_them(nan: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pdparams"
    tensors = {name: (f"p_{name}", array) for name, array in named(FLAT["paddle"], nan).items()}
    path.write_bytes(pickle.dumps({"model": tensors, "epoch": 3}))
    check(path, nan)


class Reduced:
    """Pickles as the call that it is given."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def jax_names() -> Iterator[types.SimpleNamespace]:
    """What jax and flax call what they pickle; pickle wants to find it under that name."""
    modules = {}
    for name, attribute in (
        ("jax._src.array", "_reconstruct_array"), ("flax.core.frozen_dict", "FrozenDict"),
    ):  # fmt: skip
        module = types.ModuleType(name)

        def function(*_: object) -> None: ...

        function.__module__, function.__qualname__ = name, attribute
        setattr(module, attribute, function)
        modules[name] = module
        parts = name.split(".")
        for end in range(1, len(parts)):
            modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield types.SimpleNamespace(
            array=modules["jax._src.array"]._reconstruct_array,
            frozen=modules["flax.core.frozen_dict"].FrozenDict,
        )


@pytest.mark.parametrize("nan", [False, True])
def test_arrays_of_jax_in_frozen_dicts(
    nan: bool, jax_names: types.SimpleNamespace, tmp_path: Path
) -> None:
    def pickled(array: np.ndarray) -> Reduced:
        function, args, state = cast(tuple[Any, Any, Any], array.__reduce__())
        return Reduced(jax_names.array, (function, args, state, {"weak_type": False}))

    made = {name: pickled(array) for name, array in named(FLAT["flax"], nan).items()}
    tree = nested(made)  # type: ignore[arg-type]
    frozen = {key: Reduced(jax_names.frozen, (value,)) for key, value in tree.items()}
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(frozen))
    check(path, nan)


UNKNOWN = {
    "flux": ("{}.\u03b3", "{}.\u03b2", "{}.\u03bc", "{}.\u03c3\u00b2"),
    "matlab": ("{}.Scale", "{}.Offset", "{}.TrainedMean", "{}.TrainedVariance"),
    "onnx2c": ("{}.s", "{}.b", "{}.bn_mean", "{}.bn_var"),
    "spelt otherwise": ("{}.weight", "{}.bias", "{}.RunningMean", "{}.RunningVariance"),
    "no affine": ("{}.s", "{}.b", "{}.mean", "{}.var"),
}


@pytest.mark.parametrize("layout", UNKNOWN)
def test_statistics_of_an_unknown_framework_are_refused(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.safetensors"
    as_safetensors(path, named(roles(*UNKNOWN[layout]), False))
    assert run(["inspect", str(path)]) == 2
    said = capsys.readouterr().err
    assert "holds what looks like running statistics of 'bn1'" in said
    assert "which bncheck does not read" in said


NORMALISERS: dict[str, dict[str, tuple[str, ...]]] = {
    "habitat": {"visual.running_mean_and_var": ("_mean", "_var", "_count")},
    "rl_games": {"running_mean_std": ("running_mean", "running_var", "count")},
    "rsl_rl": {"obs_normalizer": ("_mean", "_var", "_std", "count")},
    "skrl": {"preprocessor": ("running_mean", "running_variance", "current_count")},
    "brax": {"normalizer_params": ("mean", "std", "summed_variance", "count")},
    "without a count": {"obs_rms": ("mean", "var")},
}


@pytest.mark.parametrize("library", NORMALISERS)
def test_normalisers_of_inputs_are_listed_and_not_judged(library: str, tmp_path: Path) -> None:
    tensors: Arrays = {"actor.weight": np.ones((4, 12), np.float32)}
    for owner, own_names in NORMALISERS[library].items():
        for name in own_names:
            shape = () if "count" in name else (12,)
            zeros = np.zeros(shape) if "mean" in name else np.ones(shape)
            tensors[f"{owner}.{name}"] = zeros
    path = tmp_path / "policy.safetensors"
    as_safetensors(path, tensors)
    report = inspect(path)
    assert report.layers == ()
    (finding,) = report.findings
    assert (finding.rule, finding.severity) == ("BN119", "info")
    assert "normalises inputs" in finding.message


@pytest.mark.parametrize(
    "content", [{}, {"a": 1, "b": [2.0]}, [], "weights", collections.OrderedDict()], ids=repr
)
def test_a_file_without_a_tensor_is_not_a_checkpoint(content: object, tmp_path: Path) -> None:
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(BncheckError, match="holds no tensors"):
        inspect(path)


def test_an_archive_of_data_is_not_a_checkpoint(tmp_path: Path) -> None:
    as_npz(tmp_path / "data.npz", {"x": np.ones((3, 4)), "y": np.ones(3)})
    with pytest.raises(BncheckError, match="use it with --data"):
        inspect(tmp_path / "data.npz")


def test_objects_in_an_archive_are_not_unpickled(tmp_path: Path) -> None:
    arrays = {**named(FLAT["chainer"], False), "bn1/avg_var": np.array([print], object)}
    as_npz(tmp_path / "net.npz", arrays)
    with pytest.raises(BncheckError, match="of a kind that bncheck does not read"):
        inspect(tmp_path / "net.npz")
