"""Thousands of random graphs: never another function, and nothing kept that could be folded."""

from __future__ import annotations

import os

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, assume, given, settings

from bncheck.folding.planner.families import Norms
from bncheck.folding.planner.plan import Status
from bncheck.folding.weights import solve
from bncheck.graph import dataflow as df
from bncheck.graph import specs
from bncheck.graph.linear import Linear
from tests.folding.random_graphs import Net, nets

torch.set_num_threads(1)

#: BNCHECK_EXAMPLES=5000 for a long run.
_EXAMPLES = int(os.environ.get("BNCHECK_EXAMPLES", "300"))
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=_SLOW)
@given(nets(), st.sampled_from(Norms))
def test_folding_leaves_the_function_as_it_was(net: Net, norms: Norms) -> None:
    graph = net.graph()
    solution = solve(graph, norms=norms)
    for batch in (3, 2):
        x = net.fresh_input()[:batch]
        with torch.no_grad():
            every = df.Graph(graph.ops, graph.values, frozenset(graph.producers))
            expected, largest = net.evaluate(every, x)
            given_, other = net.evaluate(graph, x, solution)
        assert graph.outputs <= given_.keys()
        for name in given_:
            value = expected[name]
            assert value.shape == given_[name].shape
            error = float((value - given_[name]).abs().max())
            assert error <= 1e-12 * max(largest, other), (name, error, largest, solution.plan)


def _best_fit(net: Net, graph: df.Graph, norm: int, call: int, x: torch.Tensor) -> float:
    """How closely the graph without the norm can be fitted by one call's weight and bias.

    The columns are differences, which is exact where what follows the call is linear.
    """
    op = graph.ops[call]
    weight = net.constants[str(op.inputs[1])].clone()
    bias_name = op.input(2)
    sample = net.samples[op.outputs[0]]
    axis = op.spec.outputs[0] if isinstance(op.spec, Linear) else 1 - sample.dim()
    wide = (sample.shape[axis], *(1,) * (-axis - 1 if isinstance(op.spec, Linear) else 0))
    bias = (
        net.constants[bias_name].clone()
        if bias_name is not None
        else torch.zeros(wide, dtype=torch.float64)
    )
    with torch.no_grad():
        wanted, _ = net.evaluate(graph, x)
    target = torch.cat([v.reshape(-1) for v in wanted.values()])

    def run(parameters: torch.Tensor) -> torch.Tensor:
        new = {
            f"{call}.weight": parameters[: weight.numel()].view_as(weight),
            f"{call}.bias": parameters[weight.numel() :],
        }
        results, _ = net.evaluate(graph, x, given=new, skip=norm)
        return torch.cat([v.reshape(-1) for v in results.values()])

    parameters = torch.cat([weight.reshape(-1), bias])
    with torch.no_grad():
        start = run(parameters)
        columns = [run(parameters + unit) - start for unit in torch.eye(len(parameters)).double()]
        matrix = torch.stack(columns, 1)
        step = torch.linalg.lstsq(matrix, target - start, driver="gelsd").solution
        rest = target - run(parameters + step)
    return float(rest.abs().max() / target.abs().max())


# Of some thousand graphs one or two can still be folded in a way that no planner of local moves
# sees (a shift into a transposed convolution, of which only the mean is read). CI draws the same
# graphs each time; `python -m tests.folding` looks for others.
@settings(
    max_examples=_EXAMPLES // 3,
    deadline=None,
    suppress_health_check=_SLOW,
    derandomize="BNCHECK_EXAMPLES" not in os.environ,
)
@given(nets(depth=6, norms=1, linears=3, plain=True))
def test_what_is_kept_could_not_be_folded(net: Net) -> None:
    graph = net.graph()
    norms = list(graph.norms())
    solution = solve(graph)
    assume(len(norms) == 1 and solution.plan.decisions)
    kept = [d for d in solution.plan.decisions if d.status is Status.KEPT and d.op == "norm"]
    linear = (specs.Conv, specs.ConvTranspose, Linear)
    calls = [i for i, op in enumerate(graph.ops) if isinstance(op.spec, linear)]
    assume(kept and calls)
    x = torch.cat([net.fresh_input() for _ in range(2)])
    with torch.no_grad():  # a norm of x - x = 0 that shifts nothing does nothing
        wanted, _ = net.evaluate(graph, x)
        without, _ = net.evaluate(graph, x, skip=norms[0][0])
    assume(any(not torch.allclose(wanted[name], without[name]) for name in wanted))
    # Two kinds of fold are left out: v * c + norm(v) is one map of v, for which the planner looks
    # without the constant alone; and v + conv(v) is a convolution, too, which the planner uses
    # where the norm is beside it alone.
    siblings = [graph.ops[use.op].spec for use in graph.uses[str(norms[0][1].inputs[0])]]
    assume(not any(isinstance(spec, (specs.Mul, specs.Add)) for spec in siblings))
    sums = [op for op in graph.ops if isinstance(op.spec, specs.Add)]
    assume(all(len(graph.uses[str(name)]) == 1 for op in sums for name in op.inputs))
    for call in calls:
        assume(net.constants[str(graph.ops[call].inputs[1])].numel() <= 160)
        fit = _best_fit(net, graph, norms[0][0], call, x)
        assert fit > 1e-9, (kept, graph.ops[call], fit, graph.ops)
