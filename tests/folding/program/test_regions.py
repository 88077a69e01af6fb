"""Graphs inside a graph: regions without gradients are no hiding place, others run in float64."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.folding.program.regions import inlined

X = torch.randn(2, 3, 8, 8)


def _block(inputs: int) -> nn.Sequential:
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(inputs, 4, 3), norm)


class _Frozen(nn.Module):
    """A backbone without gradients, and a region with them inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = _block(3), _block(4), _block(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            x = self.first(x).relu()
            with torch.enable_grad():
                y: Tensor = self.second(x)
            z = y + torch.tensor(2.0)
        head: Tensor = self.head(y)
        return head, z


class _Cast(nn.Module):
    """Linear attention in float32, whatever is cast around it."""

    def __init__(self, cast: bool) -> None:
        super().__init__()
        self.first, self.second, self.cast = _block(3), _block(4), cast

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cast):
            y = (x.float() @ x.float().transpose(-1, -2)).to(x.dtype)
        z: Tensor = self.second(x) + y.mean()
        return z


def test_a_frozen_backbone_in_a_program_folds() -> None:
    model = _Frozen().eval()
    program = torch.export.export(model, (X,))
    assert any("set_grad_enabled" in str(node.target) for node in program.graph.nodes)
    result = bncheck.fold(program, (X,))
    assert [d.status.value for d in result.batchnorms] == ["folded"] * 3
    for one, other in zip(result.module()(X), model(X), strict=True):
        torch.testing.assert_close(one, other)
    assert any("set_grad_enabled" in str(node.target) for node in program.graph.nodes)


def test_what_has_no_region_stays_the_very_program() -> None:
    program = torch.export.export(_block(3).eval(), (X,))
    assert inlined(program) is program


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_beside_a_region_with_other_casts_all_folds(cast: bool) -> None:
    torch.manual_seed(2)  # where bfloat16 inside the region moves the result by 1.3e-3
    result = bncheck.fold(_Cast(cast).eval(), (X,))
    assert [d.status.value for d in result.batchnorms] == ["folded"] * 2
    assert result.parity is not None
    assert result.parity.holds


class _Like(nn.Module):
    """LeViT's linear layer: a normalisation over tokens, and back to the shape of before."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 6), nn.BatchNorm1d(6)
        nn.init.uniform_(self.norm.running_mean, -1, 1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        flat: Tensor = self.norm(x.flatten(0, 1))
        return (flat.reshape_as(x) + torch.zeros_like(x)).relu()


def test_who_asks_for_a_shape_alone_is_not_a_reader() -> None:
    result = bncheck.fold(_Like().eval(), (torch.randn(2, 5, 8),))
    assert [d.status.value for d in result.batchnorms] == ["folded"]


def test_a_region_keeps_the_operators_of_its_graph() -> None:
    program = inlined(torch.export.export(_Frozen().eval(), (X,)))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("conv2d" in name for name in names) == 3
    assert operator.getitem not in {node.target for node in program.graph.nodes}


class _Typed(nn.Module):
    """What is normalised lends another its dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.block = _block(3)

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        y = self.block[0](x)
        return self.block[1](y), z.double().type_as(y)


def test_who_asks_for_a_dtype_alone_is_not_a_reader_and_still_gets_it() -> None:
    result = bncheck.fold(_Typed().eval(), (X, torch.randn(2, 5)))
    assert [d.status.value for d in result.batchnorms] == ["folded"]
    assert {output.dtype for output in result.module()(X, torch.randn(2, 5))} == {torch.float32}
