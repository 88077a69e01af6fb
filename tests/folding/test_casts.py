"""No map moves through what rounds: of 288 + x, float16 keeps two bits behind the point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import bncheck
from bncheck.folding.fold import FoldOptions
from bncheck.folding.onnx.fold import fold_onnx
from bncheck.folding.planner.plan import Decision
from bncheck.shipping.proof import prove
from bncheck.shipping.sides import TorchSide

torch.set_num_threads(1)

HALF, BRAIN, WIDE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class _Between(nn.Module):
    """first, a normalisation behind or before `change`, last; each in its own dtype."""

    def __init__(
        self, change: Callable[[Tensor], Tensor], dtypes: tuple[torch.dtype, ...], *, before: bool
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        nn.init.uniform_(self.norm.running_mean, 1, 2)  # type: ignore[arg-type]
        self.change, self.before = change, before
        for module, dtype in zip((self.first, self.norm, self.last), dtypes, strict=True):
            module.to(dtype)
        self.input, self.output = dtypes[0], dtypes[-1]

    def forward(self, x: Tensor) -> Tensor:
        # What no map passes stands on the side of the normalisation that is not asked about.
        x = self.first(x.to(self.input))
        if self.before:
            return torch.sigmoid(self.norm(self.change(x))).to(self.output).sum()
        y: Tensor = self.last(self.change(self.norm(torch.sigmoid(x))))
        return y


def _decided(model: nn.Module) -> Decision:
    (decision,) = bncheck.fold(model.eval(), (X,)).batchnorms
    return decision


def _decimals(x: Tensor) -> Tensor:
    return x.round(decimals=1)


def _faked(x: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)


_NARROWING: dict[str, tuple[Callable[[Tensor], Tensor], torch.dtype, torch.dtype]] = {
    "half": (Tensor.half, WIDE, HALF),
    "bfloat16": (Tensor.bfloat16, WIDE, BRAIN),
    "to": (lambda x: x.to(HALF), WIDE, HALF),
    "to_and_memory": (lambda x: x.to(dtype=HALF, memory_format=torch.channels_last), WIDE, HALF),
    "type_as": (lambda x: x.type_as(torch.zeros(1, dtype=HALF)), WIDE, HALF),
    "float": (Tensor.float, DOUBLE, WIDE),
    "half_to_bfloat16": (Tensor.bfloat16, HALF, BRAIN),
    "bfloat16_to_half": (Tensor.half, BRAIN, HALF),
    "there_and_back": (lambda x: x.half().float(), WIDE, WIDE),
    "mean": (lambda x: x.mean((2, 3), keepdim=True, dtype=HALF), WIDE, HALF),
    "round": (torch.round, WIDE, WIDE),
    "decimals": (_decimals, WIDE, WIDE),
    "floor": (torch.floor, WIDE, WIDE),
    "integers": (lambda x: x.int().float(), WIDE, WIDE),
    "faked": (_faked, WIDE, WIDE),
}


@pytest.mark.parametrize("name", list(_NARROWING))
def test_no_map_goes_on_through_what_rounds(name: str) -> None:
    change, before, after = _NARROWING[name]
    found = _decided(_Between(change, (before, before, after), before=False))
    assert found.status.value == "kept"
    if before is not after:
        what = str(after).removeprefix("torch.")
        assert name == "mean" or f"becomes {what}, a cast that would round" in found.reason


@pytest.mark.parametrize("name", list(_NARROWING))
def test_no_map_is_pulled_back_through_what_rounds(name: str) -> None:
    change, before, after = _NARROWING[name]
    found = _decided(_Between(change, (before, after, after), before=True))
    assert found.status.value == "kept"
    if before is not after and name != "mean":
        what = str(after).removeprefix("torch.")
        assert f"a cast to {what} lies between, which rounds" in found.reason


def test_a_cast_to_more_bits_keeps_every_number() -> None:
    model = _Between(Tensor.float, (HALF, HALF, WIDE), before=False)
    assert _decided(model).status.value == "folded"


def test_what_comes_of_half_by_promotion_is_no_longer_half() -> None:
    table = torch.rand(1, 4, 1, 1) + 1
    for before, dtypes in ((False, (HALF, HALF, WIDE)), (True, (HALF, WIDE, WIDE))):
        model = _Between(lambda x: x * table, dtypes, before=before)
        assert _decided(model).status.value == "kept"


def test_behind_a_half_layer_a_normalisation_may_make_numbers_that_half_has_not() -> None:
    model = _Between(Tensor.float, (HALF, WIDE, WIDE), before=True)
    nn.init.constant_(model.norm.weight, 1e6)
    found = _decided(model)
    assert found.status.value == "kept"
    assert "before it values are float16" in found.reason


def test_between_two_half_layers_its_result_is_rounded_in_any_case() -> None:
    class Net(_Between):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.norm(self.first(x.half()).float()).relu().half())
            return y

    model = Net(Tensor.half, (HALF, WIDE, HALF), before=True).eval()
    result = bncheck.fold(model, (X,))
    assert [d.status.value for d in result.batchnorms] == ["folded"]
    assert (result.module()(X) - model(X)).abs().max() < 5e-3 * model(X).abs().max()


@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_autocast_is_a_cast() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            with torch.autocast("cpu", torch.bfloat16):
                y: Tensor = self.last(x)
            return y

    assert _decided(Net()).status.value == "kept"


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_a_model_that_is_all_half_is_folded_as_ever(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    found = bncheck.fold(model.to(dtype).eval(), (X.to(dtype),))
    assert [d.status.value for d in found.batchnorms] == ["folded"]


def _numbers(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).uniform(0.5, 1.5, shape).astype("f")


def _onnx_reason(path: Path, between: list[onnx.NodeProto], half: bool) -> str:
    """A BatchNorm of the input, what lies between, a convolution; the reason why it stays."""
    kind = np.float16 if half else np.float32
    stored = {"g": _numbers(4), "b": _numbers(4), "m": _numbers(4), "v": _numbers(4),
              "w": _numbers(2, 4, 1, 1).astype(kind), "one": np.ones(1, kind),
              "scale": np.float32(0.1), "zero": np.int8(0)}  # fmt: skip
    nodes = [
        helper.make_node("BatchNormalization", [*"xgbmv"], ["n"], name="norm"),
        *between,
        helper.make_node("Conv", ["c", "w"], ["y"], name="conv"),
    ]
    element = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 5, 5])],
        [helper.make_tensor_value_info("y", element, ["n", 2, 5, 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    report, _, _ = fold_onnx(path, FoldOptions(dry_run=True))
    (decision,) = report.batchnorms
    return decision.reason if decision.status.value == "kept" else ""


_ONNX: dict[str, tuple[list[onnx.NodeProto], bool]] = {
    "Cast": ([helper.make_node("Cast", ["n"], ["c"], to=TensorProto.FLOAT16)], True),
    "CastLike": ([helper.make_node("CastLike", ["n", "one"], ["c"])], True),
    "there_and_back": (
        [helper.make_node("Cast", ["n"], ["h"], to=TensorProto.BFLOAT16),
         helper.make_node("Cast", ["h"], ["c"], to=TensorProto.FLOAT)], False,
    ),
    "integers": (
        [helper.make_node("Cast", ["n"], ["h"], to=TensorProto.INT32),
         helper.make_node("Cast", ["h"], ["c"], to=TensorProto.FLOAT)], False,
    ),
    "QuantizeLinear": (
        [helper.make_node("QuantizeLinear", ["n", "scale", "zero"], ["h"]),
         helper.make_node("DequantizeLinear", ["h", "scale", "zero"], ["c"])], False,
    ),
    "Round": ([helper.make_node("Round", ["n"], ["c"])], False),
    "Floor": ([helper.make_node("Floor", ["n"], ["c"])], False),
}  # fmt: skip


_CASTS = ("Cast", "CastLike", "there_and_back")


@pytest.mark.parametrize("name", list(_ONNX))
def test_no_map_goes_on_through_what_rounds_in_onnx(name: str, tmp_path: Path) -> None:
    reason = _onnx_reason(tmp_path / "net.onnx", *_ONNX[name])
    assert ("a cast that would round" if name in _CASTS else "lies between") in reason


class _Raw(nn.Module):
    """Kelvin, normalised in float32 or, as a wrong fold would, behind the cast."""

    def __init__(self, *, late: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.late = nn.Linear(8, 4).half(), late

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x.half() - 288 if self.late else (x - 288).half())
        return y


def test_a_comparison_judges_the_users_data_by_their_own_sizes() -> None:
    """Invented inputs are 288 deviations off, and their outputs as large."""
    data = torch.randn(64, 8) + 288
    batch = {"x": {0: torch.export.Dim("n")}}
    first, second = (
        TorchSide(torch.export.export(_Raw(late=late), (data,), dynamic_shapes=batch))
        for late in (False, True)
    )
    assert prove(first, second).holds
    assert not prove(first, second, data=[data.numpy()]).holds
