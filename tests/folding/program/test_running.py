"""A program that is run leaves its own numbers and the caller's as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bncheck.folding.program.exporting import user_inputs
from bncheck.folding.program.in_place import changed_in_place
from bncheck.folding.program.running import Cuttable, run_as_written, run_in_float64
from bncheck.graph.program import double


class _Writes(nn.Module):
    """Changes a buffer through a view, its input, and a value that nobody else has."""

    rows: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("rows", torch.ones(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows[0].add_(1)
        x.mul_(2)
        return (x * self.weight).relu_() + self.rows


@pytest.mark.parametrize("run", [run_as_written, run_in_float64])
def test_calls_in_place_reach_nothing_that_is_kept(run: object) -> None:
    program = torch.export.export(_Writes(), (torch.ones(2, 3),))
    x = torch.ones(2, 3)
    for _ in range(2):
        (y,) = run(program, [x])  # type: ignore[operator]
        assert y.tolist() == [[4.0] * 3, [3.0] * 3]
    assert bool((x == 1).all())
    assert bool((program.state_dict["rows"] == 1).all())


def test_only_what_is_changed_is_copied() -> None:
    program = torch.export.export(_Writes(), (torch.ones(2, 3),))
    changed = {n.name for n in changed_in_place(program.graph) if n.op == "placeholder"}
    assert changed == {"b_rows", "x"}


class _Batches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many samples each convolution is given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_float64_lays_out_the_columns_of_one_sample_at_a_time() -> None:
    """torch lays out those of a whole batch, which is more than all values on the way."""
    conv = nn.Conv2d(2, 4, 3, padding=1, groups=2).eval()
    x = torch.randn(3, 2, 5, 5)
    program = torch.export.export(conv, (x,))
    with _Batches() as batches:
        (y,) = run_in_float64(program, [x])
    assert batches.seen == [1, 1, 1]
    with torch.no_grad():
        torch.testing.assert_close(y, conv.double()(x.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [(2, 5, 5), (0, 2, 5, 5)], ids=["no batch", "an empty batch"])
def test_a_convolution_without_samples_to_lay_out_apart(sizes: tuple[int, ...]) -> None:
    conv = nn.Conv2d(2, 4, 3).eval()
    x = torch.randn(sizes)
    (y,) = run_in_float64(torch.export.export(conv, (x,)), [x])
    with torch.no_grad():
        torch.testing.assert_close(y, conv.double()(x.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("biased", [True, False])
def test_a_large_kernel_is_widened_in_parts(
    groups: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is one group; what comes out is what the whole kernel makes."""
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 10, 3, 2, 1, groups=groups, bias=biased)
    x = torch.randn(2, 12, 9, 9)
    program = torch.export.export(conv, (x,))
    (whole,) = run_in_float64(program, [x])
    at_once: list[int] = []
    right = torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        if self.shape[1:] == conv.weight.shape[1:]:
            at_once.append(len(self))
        return right(self, *args, **named)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(double, "_AT_ONCE", 3 * conv.weight[0].numel())
    (parts,) = run_in_float64(program, [x])
    assert at_once == ([10] if groups > 1 else [3, 3, 3, 1])
    at_once.clear()
    cut = Cuttable(program)
    name = str(program.graph.output_node().args[0][0])
    (given,) = user_inputs(program)
    place = cut.cut([name], lambda each: each == given.name)
    found = cut.run(place, [name], {given.name: x})
    assert at_once == ([10] if groups > 1 else [3, 3, 3, 1])
    monkeypatch.undo()
    assert found[name].numpy() == pytest.approx(parts.numpy(), rel=1e-12)
    assert parts.numpy() == pytest.approx(whole.numpy(), rel=1e-12)
