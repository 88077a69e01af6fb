"""Every pattern: folded to the ideal count, the same function, a reason for what stays."""

from __future__ import annotations

import pytest
import torch

from bncheck import BncheckError
from bncheck.folding.planner.plan import Status
from bncheck.folding.program.fold import FoldResult, fold
from tests.folding.patterns.blocks import BLOCKS
from tests.folding.patterns.building import Pattern
from tests.folding.patterns.neighbours import NEIGHBOURS
from tests.folding.patterns.passing import PASSING
from tests.folding.patterns.unusual import UNUSUAL, Branch, corrupt

torch.set_num_threads(1)


def _tensors(output: object) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else list(output)  # type: ignore[call-overload]


def _build(pattern: Pattern) -> torch.nn.Module:
    torch.manual_seed(3)
    return pattern.build()


def _largest_error(pattern: Pattern, result: FoldResult) -> float:
    """Against the model in float64, on signed inputs and a batch that the export never saw."""
    torch.manual_seed(5)
    x = torch.randn(5, *pattern.shape).to(pattern.dtype)
    wide = _build(pattern).double()
    with torch.no_grad():
        expected, given = _tensors(wide(x.double())), _tensors(result.module()(x))
    return max(
        float((a - b.double()).abs().max() / a.abs().max())
        for a, b in zip(expected, given, strict=True)
    )


_ALL = NEIGHBOURS | UNUSUAL | PASSING | BLOCKS


@pytest.mark.parametrize("name", _ALL)
def test_pattern(name: str) -> None:
    pattern = _ALL[name]
    model = _build(pattern)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = fold(model, (torch.randn(2, *pattern.shape).to(pattern.dtype),))

    kept = [d for d in result.batchnorms if d.status is Status.KEPT]
    merged = [d for d in result.batchnorms if d.status is Status.MERGED]
    assert (len(kept), len(merged)) == (pattern.kept, pattern.merged), result.batchnorms
    assert all(d.reason for d in kept)
    if pattern.reason:
        assert any(pattern.reason in f"{d.reason} {d.hint}" for d in kept), kept
    assert (result.parity is None) == (len(kept) == len(result.batchnorms))
    assert result.parity is None or result.parity.holds, result.parity
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    skip = ("conv16_bn32", "fp16_overflow", "spectral_norm_param")
    if name not in skip and not any(module.training for module in model.modules()):
        limits = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float64: 1e-13}
        assert _largest_error(pattern, result) < limits.get(pattern.dtype, 2e-6)


def test_data_dependent_control_flow_is_refused_with_its_line() -> None:
    with pytest.raises(BncheckError, match=r"branches on the values.*unusual\.py:\d+ `if y\.sum"):
        fold(Branch().eval(), (torch.randn(2, 3, 8, 8),))


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_corrupt_statistics_are_refused(value: float) -> None:
    with pytest.raises(BncheckError, match="1: its running statistics hold a NaN"):
        fold(corrupt(value)(), (torch.randn(2, 3, 8, 8),))
