"""The condition number of the input features, where it matters: other scales, offsets, ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bncheck.measuring.distributed import Processes
from bncheck.measuring.features import InputFeatures, conditions_of
from bncheck.measuring.input_watch import InputWatch


def watched(x: np.ndarray, module: nn.Module | None = None, batch: int = 256) -> InputFeatures:
    """What is found of `x`, given batch by batch."""
    module = module or nn.Linear(x.shape[1], 3)
    watch = InputWatch(module, Processes())
    with watch.watching(), torch.no_grad():
        for part in torch.split(torch.from_numpy(x.astype(np.float32)), batch):
            module(part)
    found = watch.features()
    assert found is not None
    return found


def truth(x: np.ndarray) -> float:
    """The condition number of the second moments of (x, 1), by the singular values."""
    values = np.linalg.svd(np.column_stack([x, np.ones(len(x))]).astype(float), compute_uv=False)
    return float((values[0] / values[-1]) ** 2)


def test_two_features_of_very_different_scales() -> None:
    x = np.random.default_rng(0).standard_normal((2000, 2)) * [1, 3000]
    found = watched(x).conditions
    assert found is not None
    assert found.raw == pytest.approx(truth(x.astype(np.float32)), rel=1e-6)
    assert found.raw > 7e6
    assert found.standardised < 1.2
    assert (found.steepest, found.flattest, found.rank) == (1, 0, 2)
    assert found.gain > 1e6


def test_all_batches_count() -> None:
    x = np.random.default_rng(0).standard_normal((512, 3))
    x[256:] *= [1, 1, 50]
    found = watched(x)
    np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.sd, x.std(0), rtol=1e-5)


def test_the_first_batch_is_the_first_rank_s_however_often_the_layer_runs() -> None:
    """A layer that is unrolled over time is called several times in the forward for its pivots."""
    module = nn.Linear(2, 3)
    watch = InputWatch(module, Processes(rank=1))
    with watch.watching():
        with watch.first_forward():
            for _ in range(3):
                module(torch.full((8, 2), 100.0))
        for _ in range(3):
            module(torch.ones(8, 2))
    found = watch.features()
    assert found is not None
    np.testing.assert_array_equal(found.mean, [1, 1])


def test_a_batch_without_rows_counts_for_nothing() -> None:
    """A router gives an expert no samples of some batches."""
    module, x = nn.Linear(2, 3), torch.arange(8.0).reshape(4, 2)
    watch = InputWatch(module, Processes())
    with watch.watching():
        for part in (x[:0], x, x[:0]):
            module(part)
    found = watch.features()
    assert found is not None
    np.testing.assert_array_equal(found.mean, x.mean(0))


@pytest.mark.parametrize(("features", "batches"), [(1 << 10, 200), (1 << 17, 3), (150_528, 3)])
def test_batches_that_wait_are_no_more_numbers_than_fit(features: int, batches: int) -> None:
    """A flattened photograph has 150,528 features, and a thousand rows of them are .6 GB."""
    module, batch = nn.Linear(features, 1), torch.ones(2, features)
    watch = InputWatch(module, Processes())
    with watch.watching(), torch.no_grad():
        for _ in range(batches):
            module(batch)
            assert sum(waiting.numel() for waiting in watch._waiting) <= 1 << 18
    found = watch.features()
    assert found is not None
    np.testing.assert_array_equal(found.mean, 1)


def test_digits() -> None:
    """Three pixels never vary; some hardly ever do, which standardising makes good."""
    from sklearn.datasets import load_digits  # a second and a half

    x = load_digits().data
    varying = x[:, x.std(axis=0) > 0]
    found = watched(x).conditions
    assert found is not None
    assert found.rank == varying.shape[1] == 61
    assert found.raw == pytest.approx(truth(varying), rel=1e-6)
    assert found.standardised == pytest.approx(np.linalg.cond(np.corrcoef(varying.T)), rel=1e-6)
    assert found.standardised == pytest.approx(146, rel=0.01)


def test_a_sum_of_features_is_not_a_direction_of_its_own() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 2)) * [1, 1e4]
    moments = np.column_stack([x, x.sum(axis=1), np.ones(1000)])
    found = conditions_of(moments.T @ moments / 1000, bias=True)
    assert found is not None
    assert found.rank == 2


def test_a_convolution_s_patches_are_named_by_their_channel() -> None:
    x = np.random.default_rng(0).standard_normal((64, 2, 8, 8)) * np.array([1, 300])[:, None, None]
    found = watched(x, nn.Conv2d(2, 4, 3, padding=1), 16)
    assert found.conditions is not None
    assert (found.conditions.steepest, found.conditions.flattest) == (1, 0)
    np.testing.assert_allclose(found.sd, x.std(axis=(0, 2, 3)), rtol=1e-5)


def test_patches_of_all_columns_count() -> None:
    """8 positions a row: every fourth patch would always lie in the same two columns."""
    wave = np.sin(np.arange(8) * np.pi / 2) + 1.1
    x = np.random.default_rng(0).standard_normal((256, 1, 8, 8)) * wave
    found = watched(x, nn.Conv2d(1, 2, 3, padding=1), 63).conditions
    assert found is not None
    patches = nn.functional.unfold(torch.from_numpy(x), 3, padding=1)
    assert found.raw == pytest.approx(truth(patches.transpose(1, 2).flatten(0, 1).numpy()), rel=0.1)


def test_features_that_never_vary_have_no_condition() -> None:
    assert watched(np.ones((64, 3))).conditions is None


def test_only_the_first_layer_is_watched_once_it_is_known() -> None:
    """A hook that has nothing to do costs as much as a small layer."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    watch, hooks = InputWatch(model, Processes()), []
    with watch.watching():
        for _ in range(2):
            hooks.append([len(module._forward_pre_hooks) for module in model])
            model(torch.randn(8, 3))
    assert hooks == [[1, 0, 1, 1], [1, 0, 0, 0]]
    assert not any(module._forward_pre_hooks for module in model)


def test_patches_are_drawn_without_importing_symbolic_algebra(tmp_path: Path) -> None:
    """torch.unravel_index imports sympy, which took as long as measuring a small network."""
    code = (
        "import sys, bncheck, torch\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()\n"
        "report = bncheck.inspect(model, torch.randn(64, 3, 16, 16) + 2)\n"
        "print(report.measurement.features is not None, 'sympy' in sys.modules)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["True", "False"]
