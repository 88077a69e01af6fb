"""BN215."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.measuring.moments import Moments
from bncheck.measuring.results import Direction
from bncheck.rules.data.claim import LEAST, Claim, Fault
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import share
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@rule("BN215", "layer-shared-by-inputs", Severity.ERROR, Severity.WARNING)
def shared(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """One layer is called on inputs of different distributions, and no single statistics serve.

    Source and target images, real and generated ones, a teacher's and a student's view, levels of
    a pyramid: in training every call normalises with its own batch, in eval mode all share one
    mean and one variance. With calls i = 1..k in a forward and momentum m, the running average
    holds sum_i w_i mean_i and sum_i w_i var_i, w_i in proportion to (1 - m)^(k - i): no call's
    statistics, and without the variance between the calls that those of all inputs together have.

    Criterion: a layer is called several times a forward; measured statistics of all calls together
    leave the calls a W2 of 0.20 or more (RMS, noise taken off); and the average above, or one
    call's own statistics, explain at least 75 % of the deviation, or the statistics of each batch
    serve where no fixed ones do (BN216). Calls on inputs that are alike are none of it, as of most
    recurrent networks. Of more than 65,536 channels in all calls together nothing is said.

    Fix: a layer for each input (domain-specific batch normalisation) or step of time (recurrent
    batch normalisation), or a GroupNorm or LayerNorm.
    """
    apart = {m.layer.name: calls_apart(m) for m in network.layers}
    c = network.measurement.comparison
    only_each = c is not None and c.batch_serves_far_better
    shares = {
        m.layer.name: max(_explained(m), LEAST if only_each else 0.0)
        for m in network.layers
        if apart[m.layer.name] >= network.thresholds.w2_warning
    }
    shares = {name: explained for name, explained in shares.items() if explained >= LEAST}
    if not shares:
        return
    worst = max(shares, key=lambda name: apart[name])
    calls = len(network.measurement.by_name()[worst].calls)
    helps = network.direction is Direction.BETTER and not only_each
    yield Claim(
        self,
        shares,
        f"is called {calls} times in a forward, on inputs of different distributions: statistics "
        f"of all calls together leave each of them a W2 of {apart[worst]:.2f}, so no single ones "
        "serve",
        advice="give every input, or step of time, a layer of its own",
        fault=Fault.STATISTICS if helps else Fault.CODE,
        free=1.0,
        evidence={"calls": calls, "calls_w2": apart[worst]},
    )


def calls_apart(m: MeasuredLayer) -> float:
    """RMS over the calls of W2 against the statistics of all of them; 0 for a single call."""
    if len(m.calls) < 2:
        return 0.0
    eps = (m.layer.eps.value or 0.0) + 1e-12
    mean, var = m.seen
    sigma2 = np.maximum(var, 0) + eps
    return float(np.sqrt(np.mean([_w2_squared(call, mean, sigma2, eps) for call in m.calls])))


def _w2_squared(call: Moments, mean: Floats, sigma2: Floats, eps: float) -> float:
    d2 = (call.mean - mean) ** 2 / sigma2
    r = np.sqrt((call.var + eps) / sigma2)
    noise = (call.var_of_means + call.var_of_squares / (4 * (call.var + eps))) / sigma2
    noise = noise / max(call.effective_images, 1.0)
    return max(0.0, float(np.mean(d2 + (r - 1) ** 2 - noise)))


def _explained(m: MeasuredLayer) -> float:
    momentum = m.layer.momentum.value
    left = 1.0 if momentum is None or not 0 < momentum < 1 else 1 - momentum
    weights = np.array([left**place for place in reversed(range(len(m.calls)))])
    weights /= weights.sum()
    mean = sum(w * call.mean for w, call in zip(weights, m.calls, strict=True))
    var = sum(w * call.unbiased_var for w, call in zip(weights, m.calls, strict=True))
    own = [share(m, call.mean, call.unbiased_var, 1.0) for call in m.calls]
    return max(share(m, np.asarray(mean), np.asarray(var)), *own)
