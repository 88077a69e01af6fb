"""One move at a time: from a draft of a graph to a step, which leaves the draft as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from bncheck.folding.algebra import Affine
from bncheck.folding.planner import planning, pulling
from bncheck.folding.planner.backwards import Walk
from bncheck.folding.planner.beside import put_beside
from bncheck.folding.planner.draft import Draft, Moving, Step
from bncheck.folding.planner.finding import find_normalisations
from bncheck.folding.planner.forwards import push
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.planner.normalisations import affine_of
from bncheck.folding.planner.pulling import pull
from bncheck.folding.planner.skip import pull_with_skip
from bncheck.folding.planner.sums import ConstantWay, Shift, combinations
from bncheck.folding.program.fold import fold
from bncheck.graph import specs
from bncheck.graph.dataflow import Use
from tests.folding.random_graphs import Net

torch.set_num_threads(1)

Move = Callable[[Draft, Moving, bool], Step]


def _conv(net: Net, x: str, padding: int = 0) -> str:
    size = 2 * padding + 1
    weight = net.numbers(4, 4, size, size)
    spec = specs.Conv(1, padding > 0, (padding, padding))
    (y,) = net.call(spec, [x, weight, None], lambda a, w, b=None: F.conv2d(a, w, b, 1, padding))
    return y


def _norm(net: Net, x: str) -> str:
    given = [net.numbers(4), net.numbers(4), net.numbers(4), net.numbers(4, low=0.3)]
    (y,) = net.call(
        specs.Norm(1e-5, False), [x, *given], lambda a, w, b, m, v: F.batch_norm(a, m, v, w, b)
    )
    return y


def _sum(net: Net, x: str, y: str) -> str:
    (z,) = net.call(specs.Add((1.0, 1.0)), [x, y], torch.add)
    return z


def _relu(net: Net, x: str) -> str:
    (y,) = net.call(specs.Rectifier("relu"), [x], F.relu)
    return y


def _moved(net: Net, move: Move) -> Step:
    """The step of the only normalisation."""
    graph = net.graph()
    (norm,) = find_normalisations(graph)
    draft = Draft(graph)
    step = move(draft, draft.moving(norm, affine_of(graph, norm)), False)
    assert draft == Draft(graph)
    assert norm.last in draft.after(norm, step).bypassed
    return step


def test_pull_ends_in_the_calls_that_made_the_input() -> None:
    net = Net(1)
    _norm(net, _sum(net, _conv(net, "x"), _conv(net, "x")))
    step = _moved(net, pull)
    assert step.into == [1, 0]
    assert step.through == [2]
    first, second = step.folds[0].after, step.folds[1].after
    assert first is not None
    assert second is not None
    assert first.shifts, "by default, the first operand takes the shift"
    assert not second.shifts


def test_push_ends_in_all_calls_that_read_the_output() -> None:
    net = Net(2)
    y = _norm(net, _relu(net, "x"))
    _conv(net, y)
    _conv(net, y)
    step = _moved(net, push)
    assert step.into == [2, 3]
    assert all(fold.before is not None for fold in step.folds.values())


def test_a_skip_connection_makes_both_readers_want_the_same() -> None:
    net = Net(3)
    y = _conv(net, "x")
    _sum(net, y, _norm(net, y))
    with pytest.raises(Stuck, match="also used by op2"):
        _moved(net, pull)
    assert _moved(net, pull_with_skip).into == [0]


def test_beside_adds_a_diagonal_to_a_convolution_of_the_same_value() -> None:
    net = Net(4)
    y = _relu(net, "x")
    _sum(net, _conv(net, y, padding=1), _norm(net, y))
    for move in (pull, push, pull_with_skip):
        with pytest.raises(Stuck):
            _moved(net, move)
    step = _moved(net, put_beside)
    assert step.into == [1]
    assert step.folds[1].beside is not None


def test_all_ways_are_tried_but_the_usual_one() -> None:
    ways = list(combinations({3: Shift, 1: ConstantWay}))
    assert len(ways) == 8
    assert ways[0] == {3: Shift.FIRST, 1: ConstantWay.SCALED}
    assert ways[-1] == {3: Shift.HALVES, 1: ConstantWay.SHIFTED}
    assert not list(combinations({}))
    assert len(list(combinations(dict.fromkeys(range(9), Shift)))) == 26


def test_a_move_in_vain_is_tried_again_only_when_something_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, y = Net(5), "x"
    for _ in range(4):
        y = _norm(net, _relu(net, _norm(net, _conv(net, y))))  # the latter stays
    net.call(specs.Rectifier("relu"), [y], F.relu)
    tried: list[tuple[Draft, int, bool]] = []

    def counted(draft: Draft, moving: Moving, into_norms: bool) -> Step:
        tried.append((draft, moving.norm.last, into_norms))
        return pull(draft, moving, into_norms)

    monkeypatch.setattr(planning, "pull", counted)
    found = planning.plan(net.graph())
    assert [decision.status.value for decision in found.decisions].count("folded") >= 4
    assert len({(id(draft), *rest) for draft, *rest in tried}) == len(tried)


def test_what_would_help_is_found_out_once_for_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    net, y = Net(6), "x"
    for _ in range(3):
        c = _conv(net, y)
        y = _sum(net, _relu(net, c), _relu(net, _norm(net, c)))
    alone: list[Walk] = []

    class Counted(Walk):
        def run(self, source: str, wishes: Mapping[Use, Affine]) -> Step:
            alone.extend([self] if self.alone else [])
            return super().run(source, wishes)

    monkeypatch.setattr(pulling, "Walk", Counted)
    found = planning.plan(net.graph())
    assert [decision.status.value for decision in found.decisions] == ["kept"] * 3
    assert all("read its result instead" in decision.hint for decision in found.decisions)
    assert len(alone) == 3


class _Counting(torch.nn.Module):
    """A weight that changes at every call, and one that depends on the input."""

    def __init__(self, by_input: bool) -> None:
        super().__init__()
        self.by_input = by_input
        self.register_buffer("kernel", torch.randn(4, 3, 1, 1))
        self.norm = torch.nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self.get_buffer("kernel")
        weight = (kernel * x.mean()).tanh() if self.by_input else kernel.add_(1.0)
        y: torch.Tensor = self.norm(F.conv2d(x, weight))
        return y


@pytest.mark.parametrize("by_input", [False, True])
def test_the_reason_says_what_a_weight_is_computed_from(by_input: bool) -> None:
    (decision,) = fold(_Counting(by_input).eval(), torch.randn(2, 3, 4, 4)).batchnorms
    assert decision.status == "kept"
    assert ("computed from the input" in decision.reason) == by_input
    assert ("of stored numbers" in decision.reason) != by_input
    assert ("store its result instead" in decision.hint) != by_input
