"""What `landscape` costs beside the forward and backward passes that its numbers need.

CPU time on one thread, interleaved, as a share of plain passes of the same round; and the largest
eigenvalue beside PyHessian's, where that is installed (pip install --no-deps pyhessian).
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from bncheck.data import Batch
from bncheck.measuring.instrumented import Instrumented
from bncheck.surveying.along import MULTIPLES, along_gradient
from bncheck.surveying.curvature import largest_eigenvalue
from bncheck.surveying.objective import Mode, Objective, hessian_product, normalising
from bncheck.surveying.shift import covariate_shift
from tests.benchmarks.table import show

ROUNDS = 5
ETA = 0.05
NETS = importlib.import_module("sample_models.comparison.nets")
TRIALS = importlib.import_module("sample_models.comparison.trials")


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Each row as a share of so many plain forward and backward passes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = (part[:128] for part in TRIALS.digits("train"))
    net = NETS.SixConv()
    objective = Objective(net, Batch((x,), target=y), 0)

    def plain() -> None:
        nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        net.zero_grad()

    def along() -> None:
        along_gradient(objective, ETA, *objective.begin())

    def shift() -> None:
        covariate_shift(objective, ETA, objective.begin()[1])

    with normalising(Instrumented.of(net), Mode.TRAIN):
        start = objective.begin()[1]
        work: dict[str, tuple[Callable[[], object], int]] = {
            "loss, gradient and beta along a step": (along, 1 + len(MULTIPLES)),
            "covariate shift of 7 layers": (shift, 8),
            "lambda": (lambda: largest_eigenvalue(hessian_product(objective), start), 1),
        }
        peer = _pyhessian(net, x, y)
        if peer is not None:
            work["PyHessian's lambda"] = (peer, 1)
        shares: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(ROUNDS):
            unit = statistics.median(seconds(plain) for _ in range(5))
            for name, (run, passes) in work.items():
                shares[name].append(seconds(run) / (passes * unit))
    show(
        "landscape, 6 convolutions on 128 digits",
        ("work", "plain passes", "times their cost"),
        [(name, str(work[name][1]), f"{statistics.median(s):.2f}") for name, s in shares.items()],
    )


def _pyhessian(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object] | None:
    try:
        peer = importlib.import_module("pyhessian")
    except ImportError:
        return None
    loss = nn.CrossEntropyLoss()
    return lambda: peer.hessian(net, loss, data=(x, y), cuda=False).eigenvalues(maxIter=100)


if __name__ == "__main__":
    main()
