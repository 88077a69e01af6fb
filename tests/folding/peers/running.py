"""Plan, rewrite and compare in float64, channel by channel: the tables' own proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bncheck.folding.onnx.decomposing import decomposed as decomposed_onnx
from bncheck.folding.onnx.rewrite import rewrite as rewrite_onnx
from bncheck.folding.planner.families import Norms
from bncheck.folding.planner.plan import Decision, Status
from bncheck.folding.program.decomposing import decomposed
from bncheck.folding.program.in_place import functional
from bncheck.folding.program.rewrite import rewrite
from bncheck.folding.weights import solve
from bncheck.graph.onnx.read import read_model
from bncheck.graph.program.read import read_program
from bncheck.runtime.reference import evaluator
from bncheck.runtime.weights import Weights
from tests.folding.peers.onnx_cases import Case as OnnxCase
from tests.folding.peers.onnx_cases import model_of
from tests.folding.peers.torch_cases import Case


@dataclass(frozen=True)
class Outcome:
    """What became of each normalisation, and the largest error of a channel."""

    decisions: Sequence[Decision]
    error: float


def randomised(model: nn.Module, positive: bool, scale_only: bool) -> nn.Module:
    """30 % negative scales, one of 0 and a variance of 0 where nothing forbids them."""
    with torch.no_grad():
        for module in model.modules():
            if not hasattr(module, "eps"):
                continue
            for name, value in (*module.named_parameters(recurse=False),
                                *module.named_buffers(recurse=False)):  # fmt: skip
                if name == "weight":
                    value.uniform_(0.3, 1.5)
                    if not positive:
                        value.mul_(torch.where(torch.rand(value.shape) < 0.3, -1.0, 1.0))
                        value.view(-1)[0], value.view(-1)[-1] = 0.0, -0.8
                elif name == "running_var":
                    value.uniform_(0.3, 2.5)
                    value[1] = 0.0
                elif value.is_floating_point():
                    value.normal_(0.4, 1).mul_(0.0 if scale_only else 1.0)
    return model.eval()


def check(case: Case, *, core: bool = False) -> Outcome:
    """`core`: in the operators that torch decomposes all others into."""
    torch.manual_seed(0)
    model = randomised(case.build(), case.positive, case.scale_only).double()
    x = torch.randn(case.shape, dtype=torch.float64)
    exported = torch.export.export(model, (x,))
    program = decomposed(functional(exported.run_decompositions() if core else exported))
    solution = solve(read_program(program), (), Norms(case.norms))
    result = rewrite(program, solution).program.module()
    y = torch.randn(case.shape, dtype=torch.float64)
    with torch.no_grad():
        pairs = zip(pytree.tree_leaves(model(y)), pytree.tree_leaves(result(y)), strict=True)
        return Outcome(solution.plan.decisions, max(_error(a, b) for a, b in pairs))


def check_onnx(case: OnnxCase) -> Outcome:
    original, folded = (decomposed_onnx(model_of(case)) for _ in range(2))
    parts = read_model(folded)
    solutions = [solve(part.graph, (), Norms(case.norms)) for part in parts]
    rewrite_onnx(folded, parts, solutions, Weights())
    if all(o.type.tensor_type.HasField("shape") for o in folded.graph.output):
        onnx.checker.check_model(folded)
    decisions = [d for solution in solutions for d in solution.plan.decisions]
    if all(d.status is Status.KEPT for d in decisions):
        return Outcome(decisions, 0.0)
    rng = np.random.default_rng(3)
    known = {info.name: info.type.tensor_type.shape.dim for info in original.graph.input}
    inputs = {
        name: rng.normal(size=[2 if size.dim_param else size.dim_value for size in sizes])
        for name, sizes in known.items()
    }
    runs = (evaluator(model).run(None, inputs) for model in (original, folded))
    pairs = [(torch.tensor(a.copy()), torch.tensor(b.copy())) for a, b in zip(*runs, strict=True)]
    return Outcome(decisions, max(_error(a, b) for a, b in pairs))


def _error(expected: Tensor, given: Tensor) -> float:
    """The largest of a channel, in parts of its largest number, where a ReLU leaves any."""
    wide = expected if expected.dim() > 1 else expected[:, None]
    axes = [axis for axis in range(wide.dim()) if axis != 1]
    size = wide.abs().amax(axes)
    error = (wide - given.reshape(wide.shape)).abs().amax(axes)
    return float((error / size.clamp(min=1e-2)).max())
