"""Norms without running statistics, and relatives of BatchNorm, as torch and others write them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from bncheck.core.errors import BncheckError
from bncheck.inspecting.command import inspect
from bncheck.reading.kinds import NormKind
from bncheck.subject.setup import Measuring

State = dict[str, Tensor]
FEW = settings(max_examples=20, deadline=None)
SPECTRAL: dict[str, Any] = {
    "hook": spectral_norm,
    "parametrization": parametrizations.spectral_norm,
}
WEIGHT: dict[str, Any] = {"hook": weight_norm, "parametrization": parametrizations.weight_norm}
pytestmark = pytest.mark.filterwarnings("ignore")


def found(path: Path, state: State) -> list[tuple[str, str, str | None]]:
    torch.save(state, path)
    return [(f.rule, f.severity.value, f.layer) for f in inspect(path).findings]


@pytest.fixture(scope="module")
def critics() -> dict[str, nn.Module]:
    """Small critics in both spellings, trained until their weights are their own."""
    made: dict[str, nn.Module] = {}
    for name, norm in SPECTRAL.items():
        torch.manual_seed(0)
        net = nn.Sequential(
            norm(nn.Conv2d(3, 8, 3)), nn.LeakyReLU(0.1),
            norm(nn.ConvTranspose2d(8, 6, 3)), nn.Flatten(), norm(nn.Linear(384, 1)),
        )  # fmt: skip
        step = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(60):
            real, fake = torch.randn(16, 3, 8, 8) + 1, torch.randn(16, 3, 8, 8)
            loss = torch.relu(1 - net(real)).mean() + torch.relu(1 + net(fake)).mean()
            step.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            step.step()
        made[name] = net
    return made


def is_vector(name: str) -> bool:
    return name.endswith(("weight_u", "weight_v", "_u", "_v"))


@pytest.mark.parametrize("how", SPECTRAL)
def test_live_and_fresh_spectral_norms_are_silent(
    how: str, critics: dict[str, nn.Module], tmp_path: Path
) -> None:
    path = tmp_path / "net.pt"
    assert found(path, critics[how].state_dict()) == []
    assert {layer.kind for layer in inspect(path).layers} == {NormKind.SPECTRAL}
    fresh = nn.Sequential(SPECTRAL[how](nn.Conv2d(3, 8, 3)), SPECTRAL[how](nn.Linear(8, 4)))
    assert found(path, fresh.state_dict()) == []


@pytest.mark.parametrize("how", SPECTRAL)
@FEW
@given(seed=st.integers(0, 1000), share=st.floats(0.2, 0.8))
def test_averaged_vectors_are_found(
    how: str, seed: int, share: float, critics: dict[str, nn.Module],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    state = dict(critics[how].state_dict())
    name = next(n for n in state if n.endswith("_u"))
    other = nn.functional.normalize(torch.randn(state[name].shape, generator=generator), dim=0)
    state[name] = share * state[name] + (1 - share) * other
    (finding,) = found(tmp_path_factory.mktemp("net") / "net.pt", state)
    assert finding == ("BN121", "error", "0")


@pytest.mark.parametrize("how", SPECTRAL)
@FEW
@given(seed=st.integers(0, 1000))
def test_vectors_of_other_weights_are_found(
    how: str, seed: int, critics: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: nn.functional.normalize(torch.randn(tensor.shape, generator=generator), dim=0)
        if is_vector(name) else tensor
        for name, tensor in critics[how].state_dict().items()
    }  # fmt: skip
    rules = found(tmp_path_factory.mktemp("net") / "net.pt", state)
    assert ("BN121", "error", "0") in rules
    assert {rule for rule, _, _ in rules} == {"BN121"}


@pytest.mark.parametrize("how", WEIGHT)
@FEW
@given(row=st.integers(0, 7), seed=st.integers(0, 99))
def test_a_zero_direction_of_a_weight_norm_is_found(
    how: str, row: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(WEIGHT[how](nn.Conv1d(4, 8, 3)), WEIGHT[how](nn.Linear(8, 1)))
    path = tmp_path_factory.mktemp("net") / "net.pt"
    state = copy.deepcopy(dict(net.state_dict()))
    assert found(path, state) == []
    assert [layer.kind for layer in inspect(path).layers] == [NormKind.WEIGHT] * 2
    direction = next(n for n in state if n.endswith(("weight_v", "original1")))
    state[direction][row] = 0
    assert found(path, state) == [("BN122", "error", "0")]


def test_attention_s_matrices_g_and_v_are_no_weight_norm(tmp_path: Path) -> None:
    state = {"weight_g": torch.eye(4), "weight_v": torch.eye(4)}
    assert found(tmp_path / "net.pt", state) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["ln_1.weight", "norm.bias", "encoder.layer_norm.weight",
                                  "block.norm2.bias", "input_layernorm.weight"])  # fmt: skip
def test_a_norm_that_is_not_finite_is_found_by_its_name(
    name: str, bad: float, tmp_path: Path
) -> None:
    owner, _, own = name.rpartition(".")
    state = {f"{owner}.weight": torch.ones(6), f"{owner}.bias": torch.zeros(6)}
    state["fc.weight"] = torch.randn(6, 6)
    assert found(tmp_path / "net.pt", state) == []
    state[f"{owner}.{own}"][3] = bad
    assert found(tmp_path / "net.pt", state) == [("BN120", "error", owner)]


def renorm(mean: float | None = None, std: float | None = None) -> dict[str, np.ndarray]:
    spread = np.linspace(0.5, 1.5, 6, dtype=np.float32)
    return {
        "bn.weight": spread, "bn.bias": spread - 1,
        "bn.running_mean": spread - 0.7 if mean is None else np.full(6, mean, np.float32),
        "bn.running_std": spread if std is None else np.full(6, std, np.float32),
        "bn.num_batches_tracked": np.array(500),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "rules"),
    [({}, set()), ({"mean": 0.0, "std": 1.0}, {"BN101"}), ({"std": 1.0}, {"BN118"}),
     ({"std": float("nan")}, {"BN102"}), ({"mean": 0.0}, {"BN118"})],
)  # fmt: skip
def test_batch_renormalization_is_judged_on_its_squares(
    changes: dict[str, float], rules: set[str], tmp_path: Path
) -> None:
    save_file(renorm(**changes), tmp_path / "net.safetensors")
    report = inspect(tmp_path / "net.safetensors")
    (layer,) = report.layers
    assert layer.kind is NormKind.RENORM
    if not changes and layer.var is not None:
        np.testing.assert_allclose(
            layer.var.astype(float), renorm()["bn.running_std"] ** 2, rtol=1e-6
        )
    assert {f.rule for f in report.findings if f.severity == "error"} == rules


def test_a_tracked_instance_norm_never_counts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    for _ in range(200):
        net(torch.randn(8, 4, 5, 5) * 2 + 1)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    (layer,) = inspect(tmp_path / "net.pt").layers
    assert layer.kind is NormKind.BATCH_OR_INSTANCE
    torch.save(net, tmp_path / "module.pt")
    (layer,) = inspect(tmp_path / "module.pt").layers
    assert layer.kind is NormKind.INSTANCE


class _Mixed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8)
        self.norm1, self.ln_f = nn.GroupNorm(2, 8), nn.LayerNorm(4)


def test_bare_norms_are_in_the_table_and_a_model_tells_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(_Mixed().state_dict(), path)
    bare = inspect(path)
    assert [(layer.name, layer.kind.value, layer.channels) for layer in bare.layers] == [
        ("bn", "BatchNorm", 8),
        ("norm1", "LayerNorm or similar", 8),
        ("ln_f", "LayerNorm or similar", 4),
    ]
    assert bare.certain_layers == 1
    told = inspect(path, measuring=Measuring(f"{__file__}:_Mixed", None))
    assert [layer.kind.value for layer in told.layers] == ["BatchNorm", "GroupNorm", "LayerNorm"]


def test_a_lazy_module_that_never_ran_is_called_so(tmp_path: Path) -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(BncheckError, match="before a lazy module had seen its first batch"):
        inspect(tmp_path / "net.pt")
