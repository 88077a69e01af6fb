# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,no-any-return,union-attr"
"""`--norms all`: every affine into every reader, exact in float64, and what is nearby stays."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.families import Norms
from bncheck.folding.program.fold import FoldResult
from bncheck.folding.program.state_file import save_folded
from tests.folding.onnx.graphs.building import fold_onnx
from tests.folding.patterns.building import Fn

torch.set_num_threads(1)
Build = Callable[[int], nn.Module]


class Written(nn.Module):
    """An RMSNorm, or with `centred` a LayerNorm, as calls; `plus` as in Gemma: 1 + weight."""

    def __init__(self, size: int, centred: bool = False, plus: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.centred, self.plus = centred, plus

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(torch.float64)
        h = h - h.mean(-1, keepdim=True) if self.centred else h
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (1.0 + self.weight if self.plus else self.weight) * h.to(x.dtype)


#: Norms along the last axis, with their family.
LAST: dict[str, tuple[Build, str]] = {
    "layer_norm": (nn.LayerNorm, "LayerNorm"),
    "without bias": (lambda d: nn.LayerNorm(d, bias=False), "LayerNorm"),
    "rms_norm": (nn.RMSNorm, "RMSNorm"),
    "written": (Written, "RMSNorm"),
    "1 + weight": (lambda d: Written(d, plus=True), "RMSNorm"),
    "centred": (lambda d: Written(d, centred=True), "LayerNorm"),
}


def _randomised(model: nn.Module) -> nn.Module:
    """Scales of both signs, one of 0."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.normal_(0.2, 1)
                if name.endswith("weight"):
                    value[1] = 0.0
    return model.eval().double()


def _folded(model: nn.Module, *x: Tensor) -> tuple[Any, float]:
    """The fold, and its largest error in parts of the largest output."""
    before = copy.deepcopy(model)
    result = bncheck.fold(model, x, norms="all")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.state_dict().items())
    with torch.no_grad():
        expected, given = before(*x), result.module()(*x)
    return result, float((expected - given).abs().max() / expected.abs().max())


class Language(nn.Module):
    """Attention and a gated layer, and a head that shares its weight with the embedding."""

    def __init__(self, norm: Build) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.n1, self.n2, self.n3 = norm(6), norm(6), norm(6)
        for name in ("q", "k", "v", "o"):
            self.add_module(name, nn.Linear(6, 6, bias=name != "k"))
        self.gate, self.up, self.down = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = self.n1(x)
        x = x + self.o(F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
        y = self.n2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.n3(x))


@pytest.mark.parametrize("name", LAST)
def test_every_linear_reader_takes_the_affine(name: str) -> None:
    build, family = LAST[name]
    torch.manual_seed(0)
    result, error = _folded(_randomised(Language(build)), torch.randint(0, 11, (2, 5)))
    assert [d.status for d in result.batchnorms] == ["folded"] * 3
    assert {d.kind for d in result.batchnorms} == {family}
    assert result.batchnorms[0].into == ("q", "k", "v")
    assert error < 2e-15
    left = [key for key in result.program.state_dict if key.startswith(("n1.", "n2.", "n3."))]
    assert not left
    assert result.to_dict()["kinds"] == {family: {"total": 3, "folded": 3, "kept": 0}}


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)])
@pytest.mark.parametrize("padding", [0, 1])
def test_channel_norms_go_into_convolutions(norm: nn.Module, padding: int) -> None:
    """With zero padding the scale goes alone, and b / g stays before it."""
    torch.manual_seed(1)
    parts = nn.Conv2d(3, 4, 1), copy.deepcopy(norm), nn.Conv2d(4, 5, 3, padding=padding)
    result, error = _folded(_randomised(nn.Sequential(*parts)), torch.randn(2, 3, 7, 7).double())
    (decision,) = result.batchnorms
    assert (decision.status, decision.into) == ("folded", ("2",))
    assert ("shift" in decision.reason) == bool(padding)
    assert error < 2e-15
    left = {key for key in result.program.state_dict if key.startswith("1.")}
    assert left == ({"1.weight", "1.bias"} if padding else set())
    if padding:
        assert set(result.program.state_dict["1.weight"].tolist()) == {0.0, 1.0}


def test_through_a_relu_only_positive_scales_go() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = torch.randn(2, 3, 5, 5).double()
    result, error = _folded(_randomised(net), x)
    assert ([d.status for d in result.batchnorms], error) == (["kept"], 0.0)
    assert "relu" in result.batchnorms[0].reason
    with torch.no_grad():
        net[1].weight.abs_().add_(0.1)
    result, error = _folded(net, x)
    assert [d.status for d in result.batchnorms] == ["folded"]
    assert error < 2e-15


#: Nearby, and not exact: nothing may be folded.
STAYS: dict[str, tuple[Callable[[Fn, Tensor], Any], str]] = {
    "output": (lambda s, x: s.n(x), "output of the model"),
    "residual": (lambda s, x: s.a(y := s.n(x)) + y, "same scale"),
    "skip": (lambda s, x: s.a(s.n(x) + x), "same scale"),
    "activation": (lambda s, x: s.a(torch.tanh(s.n(x))), "no affine map"),
    "weight": (lambda s, x: F.linear(x, s.n(x)[0]), "weight of"),
    "another norm": (lambda s, x: s.a(s.m(s.n(x))), "no affine map"),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_nearby_stays(name: str) -> None:
    run, reason = STAYS[name]
    torch.manual_seed(3)
    net = Fn(run, n=nn.LayerNorm(4), a=nn.Linear(4, 4), m=nn.LayerNorm(4, elementwise_affine=False))
    result, error = _folded(_randomised(net), torch.randn(2, 3, 4).double())
    assert ([d.status for d in result.batchnorms], error) == (["kept"], 0.0)
    assert reason in result.batchnorms[0].reason


def test_by_default_only_batch_norms_are_looked_at() -> None:
    net = _randomised(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)))
    assert not bncheck.fold(net, torch.randn(2, 4).double()).batchnorms


def _divided(x: Tensor, root: Tensor) -> Tensor:
    """By a deviation, with a scale and a shift for each of 4 channels behind that."""
    return (x / root * torch.arange(1.0, 5)) + torch.arange(4.0)


def test_a_layer_norm_written_out_is_no_batch_norm_by_default() -> None:
    """As an older exporter writes it: openwakeword's models."""

    def run(s: Fn, x: Tensor) -> Tensor:
        h = x - x.mean(1, keepdim=True)
        return s.a(_divided(h, (h.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()))

    net = Fn(run, a=nn.Linear(4, 4))
    assert not bncheck.fold(net, torch.randn(2, 4)).batchnorms
    found = bncheck.fold(net, torch.randn(2, 4), norms="all").batchnorms
    assert [(d.kind, d.status) for d in found] == [("LayerNorm", "folded")]


def test_a_map_behind_a_division_by_a_stored_number_is_a_batch_norm() -> None:
    net = Fn(lambda s, x: s.a(_divided(x, s.n)), a=nn.Linear(4, 4))
    net.register_buffer("n", torch.tensor([[2.0]]).sqrt())
    found = bncheck.fold(net, torch.randn(2, 4)).batchnorms
    assert [(d.kind, d.status) for d in found] == [("BatchNorm", "folded")]


@pytest.mark.parametrize("norms", ["batch", "all"])
@pytest.mark.parametrize("affine", [False, True])
def test_an_instance_norm_takes_over_a_batch_norm(norms: Any, affine: bool) -> None:
    torch.manual_seed(4)
    net = nn.Sequential(nn.InstanceNorm2d(4, affine=affine), nn.BatchNorm2d(4), nn.Flatten())
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    _randomised(net)
    x = torch.randn(2, 4, 5, 5).double()
    result = bncheck.fold(net, x, norms=norms)
    assert [d.status for d in result.batchnorms] == ["kept", "folded"]
    with torch.no_grad():
        assert (result.module()(x) - net(x)).abs().max() < 1e-14


def test_a_tracked_instance_norm_is_a_batch_norm() -> None:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, True, track_running_stats=True))
    with torch.no_grad():
        net[1].running_mean.normal_()
    result, error = _folded(_randomised(net), torch.randn(2, 3, 5, 5).double())
    assert [(d.status, d.kind) for d in result.batchnorms] == [("folded", "InstanceNorm")]
    assert error < 2e-15


class Renorm(nn.Module):
    """Batch Renormalization's running form."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("deviation", torch.rand(4) + 0.5)
        self.weight = nn.Parameter(torch.randn(4)) if affine else None
        self.bias = nn.Parameter(torch.randn(4)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        wide = (1, -1, 1, 1)
        y = (x - self.mean.view(wide)) / self.deviation.view(wide)
        if self.weight is None or self.bias is None:
            return y
        return y * self.weight.view(wide) + self.bias.view(wide)


@pytest.mark.parametrize("affine", [False, True])
def test_batch_renorm_is_a_batch_norm(affine: bool) -> None:
    torch.manual_seed(9)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Renorm(affine), nn.ReLU(), nn.Conv2d(4, 2, 3))
    result, error = _folded(net.eval().double(), torch.randn(2, 3, 8, 8).double())
    assert [(d.status, d.kind, d.into) for d in result.batchnorms] == [
        ("folded", "BatchNorm", ("0",))
    ]
    assert not any(key.startswith("1.") for key in result.program.state_dict)
    assert error < 2e-15


def test_the_preparation_of_the_data_is_not_a_norm() -> None:
    net = nn.Sequential(Renorm(False), nn.Conv2d(4, 2, 3)).eval()
    assert not bncheck.fold(net, torch.randn(2, 4, 8, 8), norms="all").batchnorms


def _normed() -> nn.Module:
    torch.manual_seed(6)
    parts = (
        parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        nn.BatchNorm2d(4),
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 2, 1),
    )
    return _randomised(nn.Sequential(*parts))


def test_weight_and_spectral_norm_become_their_weight(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 6, 6).double()
    net = _normed()
    result, error = _folded(net, x)
    assert [d.kind for d in result.batchnorms] == [
        "WeightNorm", "BatchNorm", "SpectralNorm", "GroupNorm",
    ]  # fmt: skip
    assert not result.report.kept
    assert error < 2e-15
    left = {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"}
    assert set(result.program.state_dict) == left

    save_folded(result, net, (x,), tmp_path / "net.safetensors", tmp_path / "none")
    with torch.no_grad():
        wanted = net(x)  # writing has not touched the model
        loaded = bncheck.load_folded(_normed(), tmp_path / "net.safetensors")
        assert (loaded(x) - wanted).abs().max() < 1e-12
        assert (net(x) - wanted).abs().max() == 0
    assert type(loaded.get_submodule("0")) is nn.Conv2d
    assert loaded.get_submodule("3").weight is None


@pytest.mark.parametrize("plus", [False, True])
def test_a_written_norm_is_neutral_in_a_state_dict(plus: bool, tmp_path: Path) -> None:
    """Ones, or zeros where the model adds 1; the head has a weight of its own."""
    torch.manual_seed(8)

    def net() -> nn.Module:
        return nn.Sequential(Written(4, plus=plus), nn.Linear(4, 3))

    model, x = _randomised(net()), torch.randn(2, 5, 4).double()
    result, _ = _folded(model, x)
    save_folded(result, model, (x,), tmp_path / "net.safetensors", tmp_path / "none")
    loaded = bncheck.load_folded(net().eval().double(), tmp_path / "net.safetensors")
    assert set(loaded.state_dict()["0.weight"].tolist()) == {0.0 if plus else 1.0}
    with torch.no_grad():
        assert (loaded(x) - model(x)).abs().max() < 1e-13


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4, affine=False), nn.InstanceNorm2d(4)])
def test_a_norm_without_an_affine_is_given_one_in_a_state_dict(
    norm: nn.Module, tmp_path: Path
) -> None:
    torch.manual_seed(9)
    model = _randomised(nn.Sequential(copy.deepcopy(norm), nn.BatchNorm2d(4), nn.Tanh()))
    x = torch.randn(2, 4, 5, 5).double()
    result, error = _folded(model, x)
    assert error < 2e-15
    save_folded(result, model, (x,), tmp_path / "net.safetensors", tmp_path / "none")
    new = nn.Sequential(copy.deepcopy(norm), nn.BatchNorm2d(4), nn.Tanh()).eval().double()
    loaded = bncheck.load_folded(new, tmp_path / "net.safetensors")
    with torch.no_grad():
        assert (loaded(x) - model(x)).abs().max() < 1e-14


def test_a_weight_that_is_computed_otherwise_stays() -> None:
    net = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh()).eval()
    assert not bncheck.fold(net, torch.randn(2, 4), norms="all").batchnorms


def _onnx(path: Path) -> Path:
    """LayerNormalization, two products that read it, RMSNormalization, a product."""
    random = np.random.default_rng(7)
    sizes = {"g": (4,), "b": (4,), "w1": (4, 3), "w2": (4, 3), "g2": (3,), "w3": (3, 2)}
    weights = [
        numpy_helper.from_array(random.normal(size=size).astype(np.float32), name)
        for name, size in sizes.items()
    ]
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"]),
        helper.make_node("MatMul", ["n", "w1"], ["p"]),
        helper.make_node("MatMul", ["n", "w2"], ["q"]),
        helper.make_node("Mul", ["p", "q"], ["m"]),
        helper.make_node("RMSNormalization", ["m", "g2"], ["r"], epsilon=1e-3),
        helper.make_node("MatMul", ["r", "w3"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 5, size])
        for name, size in (("x", 4), ("y", 2))
    )
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, path)
    return path


def test_onnx_through_the_same_planner(tmp_path: Path) -> None:
    path = _onnx(tmp_path / "net.onnx")
    report, folded = fold_onnx(path, FoldOptions(norms=Norms.ALL))
    assert [(d.kind, d.status) for d in report.batchnorms] == [
        ("LayerNorm", "folded"), ("RMSNorm", "folded"),
    ]  # fmt: skip
    found = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    assert set(found["g"].tolist()) == set(found["g2"].tolist()) == {1.0}
    assert set(found["b"].tolist()) == {0.0}
    x = np.random.default_rng(8).normal(size=(2, 5, 4)).astype(np.float32)
    sides = [
        onnxruntime.InferenceSession(model).run(None, {"x": x})[0]
        for model in (str(path), folded.SerializeToString())
    ]
    np.testing.assert_allclose(sides[0], sides[1], rtol=1e-4, atol=1e-5)


def test_the_command_counts_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fold", str(_onnx(tmp_path / "net.onnx")), "--norms", "all", "--dry-run"]
    assert run(words) == 0
    assert "1 of 1 LayerNorm and 1 of 1 RMSNorm can be folded" in capsys.readouterr().out
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [d["kind"] for d in told["batchnorms"]] == ["LayerNorm", "RMSNorm"]


def test_an_encoder_layer_finds_the_weights_that_it_reads(tmp_path: Path) -> None:
    torch.manual_seed(11)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True)
    net, x = _randomised(layer), torch.randn(2, 5, 4).double()
    result, error = _folded(net, x)
    assert not result.report.kept
    assert error < 2e-15
    save_folded(result, net, (x,), tmp_path / "net.safetensors", tmp_path / "none")
    with torch.no_grad():
        wanted = net(x)
        loaded = bncheck.load_folded(copy.deepcopy(net), tmp_path / "net.safetensors")
        assert (loaded(x) - wanted).abs().max() < 1e-12
    assert "norm1.weight" not in loaded.state_dict()


class ReadsItsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        assert self.norm.weight.dtype == x.dtype
        return self.head(self.norm(x))


def test_a_forward_that_reads_what_has_gone_is_said(tmp_path: Path) -> None:
    net, x = _randomised(ReadsItsNorm()), torch.randn(2, 4).double()
    result, _ = _folded(net, x)
    with pytest.raises(BncheckError, match="cannot be called without what the fold removes"):
        save_folded(result, net, (x,), tmp_path / "net.safetensors", tmp_path / "none")
    assert not list(tmp_path.iterdir())


class SharedMemory(nn.Module):
    """Two parameters in one memory, of which a fold changes one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.b.weight.data = self.a.weight.data

    def forward(self, x: Tensor) -> Any:
        return self.bn(self.a(x)), self.b(x)


def test_parameters_in_one_memory_are_parted(tmp_path: Path) -> None:
    torch.manual_seed(12)
    net, x = SharedMemory().eval(), torch.randn(5, 4)
    net.bn.running_var.fill_(4.0)
    result = bncheck.fold(net, x)
    assert isinstance(result, FoldResult)
    save_folded(result, net, (x,), tmp_path / "net.safetensors", tmp_path / "none")
    with torch.no_grad():
        wanted = net(x)
        given = bncheck.load_folded(net, tmp_path / "net.safetensors")(x)
    for one, other in zip(wanted, given, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
