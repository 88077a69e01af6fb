"""BN202."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.measuring.results import Direction
from bncheck.rules.data.claim import LEAST, Claim
from bncheck.rules.data.measured_network import MeasuredNetwork, own_w2
from bncheck.rules.data.small_batches import measured_noise_share
from bncheck.rules.rule import Rule, rule

#: Half of the layers deviate at least so much by themselves.
_TYPICAL: Final = 0.06
#: The statistics of other weights of the same training resemble these.
_ALIKE: Final = 0.5


@rule("BN202", "stale-statistics", Severity.ERROR, Severity.WARNING)
def stale(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The running statistics belong to other weights: those of earlier in the training.

    Usual causes: averaged weights (EMA, SWA) with the buffers of another time, a checkpoint put
    together from two, layers frozen in eval mode while the weights before them went on learning, a
    momentum too small for how fast the weights moved.

    Criterion: W2 from 0.20 (warning) or 0.40 (error), and in the batch cascade most layers deviate
    by themselves, the median by at least 0.06, and behind the first layer in their means more than
    in their variances, each in units of one image's noise (k_mean > min(1.5 k_var, 0.6), see
    BN201): a mean there is W E + b of a normalised input, which batches and data hardly move and
    other weights do. Or, where labels show that measured statistics serve better and the layers
    that read the data agree with them, those behind deviate (median 0.06) by more than noise
    explains, as shuffled batches of 4 samples show it (less than 75 %, see BN201). The statistics
    still resemble those of these weights (correlation over channels from 0.5), and measured ones
    do not leave poor results as poor.

    Fix: recalibrate; for averaged weights, average the buffers too or update them at the end
    (torch.optim.swa_utils.update_bn).
    """
    if not _is_stale(network):
        return
    middle = float(np.median(network.w2))
    yield Claim(
        self,
        {m.layer.name: 0.76 for m in network.layers},
        f"most layers deviate on their own (median W2 {middle:.2f}), in means and variances: "
        "the statistics belong to other weights, such as those of an earlier step",
        advice="if these weights are an average (EMA, SWA), its statistics have to be measured "
        "after averaging",
        free=float(2 * network.stem.layer.channels),
        predicts=False,
        evidence={"median_w2": middle},
    )


def _is_stale(network: MeasuredNetwork) -> bool:
    if len(network.w2) < 2 or network.stem_alone:
        return False
    if network.both_poor and network.direction is Direction.SAME:
        return False  # measuring would restore the results
    alike = [resemblance(m) for m in network.layers if network.is_off(m)]
    if not alike or float(np.median(alike)) < _ALIKE:
        return False
    typical = float(np.median(network.w2)) >= _TYPICAL
    return (typical and network.of_other_weights) or _is_behind_alone(network)


def _is_behind_alone(network: MeasuredNetwork) -> bool:
    """Data fit and measured statistics restore, and behind them chance moves nothing like this.

    With what batches scatter measured in each layer: also where means are moved in some layers
    alone, as where the first layer's weights hardly changed any more.
    """
    behind = [own_w2(m) for m in network.layers if not network.is_entry(m)]
    if network.direction is not Direction.BETTER or not network.data_fit or len(behind) < 2:
        return False
    return float(np.median(behind)) >= _TYPICAL and measured_noise_share(network) < LEAST


def resemblance(m: MeasuredLayer) -> float:
    """Correlation of stored and measured means, or of the log variances, the smaller one."""
    (mean, var), (seen_mean, seen_var) = m.stored, m.seen
    eps = (m.layer.eps.value or 0.0) + 1e-12
    pairs = ((mean, seen_mean), (np.log(var + eps), np.log(np.maximum(seen_var, 0) + eps)))
    found = [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs if a.std() > 0 and b.std() > 0]
    return min(found, default=0.0)
