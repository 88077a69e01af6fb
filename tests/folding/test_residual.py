"""A BatchNorm that cannot be folded as a convolution by channel, or a product and a sum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.plan import Status
from bncheck.folding.program.fold import fold
from bncheck.folding.residual import Residual
from tests.architectures import randomised
from tests.shipping.nets import Stays

torch.set_num_threads(1)


def _targets(program: torch.export.ExportedProgram) -> str:
    return " ".join(str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("form", Residual)
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_each_rank_in_each_form(form: Residual, rank: int) -> None:
    model = randomised(Stays(rank))
    x = torch.randn(3, 6, *[4] * (rank - 2))
    result = fold(model, (x,), FoldOptions(residual=form))
    (decision,) = result.batchnorms
    kept = form is Residual.BN
    assert decision.status is (Status.KEPT if kept else Status.REWRITTEN)
    assert ("batch_norm" in _targets(result.program)) == kept
    is_conv = form is Residual.CONV and rank == 4
    assert ("conv2d" in _targets(result.program)) == is_conv
    wide = model.double()(x.double())
    assert result.module()(x).sub(wide).abs().max() < 1e-6 * wide.abs().max()


def test_one_that_took_over_others_takes_them_along() -> None:
    first, second = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    model = randomised(nn.Sequential(nn.Tanh(), first, nn.Dropout(), second, nn.Tanh()))
    x = torch.randn(4, 5)
    result = fold(model, (x,), FoldOptions(residual=Residual.MULADD))
    assert [d.status for d in result.batchnorms] == [Status.MERGED, Status.REWRITTEN]
    assert "batch_norm" not in _targets(result.program)
    torch.testing.assert_close(result.module()(x), model(x))


def test_one_in_training_mode_stays() -> None:
    model = randomised(Stays(4))
    model.train()
    program = torch.export.export(model, (torch.randn(2, 6, 4, 4),))
    result = fold(program, None, FoldOptions(residual=Residual.CONV))
    assert [d.status for d in result.batchnorms] == [Status.KEPT]
