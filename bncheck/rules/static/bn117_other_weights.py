"""BN117."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.layers.facts import median
from bncheck.layers.means import Chain, Chains
from bncheck.rules.rule import Network, Rule, rule

if TYPE_CHECKING:
    from bncheck.layers.norm_layer import Floats

#: Correlation of predicted and stored means by a graph: sound layers have .95 and more (.85 in one
#: network), layers with their channels permuted less than .5 in 95 of 100.
_BROKEN: Final = 0.5
_SOUND: Final = 0.85
#: By the order of tensors, half of which may be connected in another way: the median of sound files
#: is .56 and more, of permuted ones 0.
_BROKEN_MEDIAN: Final = 0.3
#: What a deviation in standard deviations costs is W2: below .2 it is harmless.
_HARMFUL: Final = 0.2
#: Median deviation by a graph: sound networks .06 to .15, buffers of another epoch .19 to .54.
_OTHER_EPOCH: Final = 0.3
_FEWEST: Final = 4
_NAMED: Final = 2

_INSTEAD: Final = "take weights and buffers from one checkpoint"
_FIX: Final = f"{_INSTEAD}, or recalibrate with data"


@rule("BN117", "statistics-of-other-weights", Severity.ERROR, Severity.WARNING)
def other_weights(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """The running means do not follow from the affine before a layer and the weights between.

    A BatchNorm gives N(beta, gamma^2) in each channel, whatever the data were. Behind an
    activation f its mean is E = E[f(z)], z ~ N(beta, gamma^2): for ReLU
    beta Phi(beta/|gamma|) + |gamma| phi(beta/|gamma|), by quadrature for any other. A convolution
    or linear layer makes sum_k W_k E + bias of it, sums of branches add, and this is the mean that
    the next BatchNorm must have stored. Where it has not, the statistics were taken with other
    weights: channels in another order, turned signs, buffers of another run or epoch.

    Criterion: with a graph an error where the correlation over channels is below .5 and the means
    are off by .2 standard deviations and more, while the median of the other layers is .85 and
    more. A graph is what an ONNX file, a .pt2 archive and TorchScript say of their calls, the order
    of a Sequential in a pickled module, and the forward of --model (with --data where data and
    statistics differ). It is warned about as a whole where no layer is that sound, and where the
    median deviation of four layers or more is above .3 standard deviations. From the order of the
    tensors in a file alone, only a warning for the whole: a median correlation below .3 over at
    least four neighbours, of which not a quarter is above .5. Images may have shrunk to one or two
    positions, where padding is most of what a kernel sees: what fits then counts for a layer.
    Layers of fewer than 8 channels are not judged, nor what lies behind an operation that is not
    understood. At most 64 MiB of weights are read from a file, the smallest first.

    It is blind to variances, and to an average of near weights. Measured on four networks of
    others: the 97 sound layers have .96 and more, and 94 of 97 are found with their channels in
    another order; of eleven snapshots of one run, 81 of 110 pairs of weights and other buffers are
    found. The relation is the mean of a rectified Gaussian,
    https://en.wikipedia.org/wiki/Rectified_Gaussian_distribution, put into the layers' own formula.

    Fix: take weights and buffers from one checkpoint, or recalibrate with data.
    """
    chains = network.chains
    if chains.certain:
        yield from _by_graph(self, chains)
    elif len(chains.found) >= _FEWEST:
        found = _correlations(chains.found)
        if median(found) < _BROKEN_MEDIAN and _upper_quartile(found) < _BROKEN:
            yield _of_all(
                self, chains,
                f"correlation {median(found):.2f} over {_number(chains, 'neighbouring layers')}, "
                f"in sound files above {_BROKEN:g}",
            )  # fmt: skip


def _by_graph(self: Rule[Network, Finding], chains: Chains) -> Iterator[Finding]:
    bad = _bad(chains)
    rest = _correlations([chain for chain in chains.found if chain not in bad])
    if bad and rest.size and median(rest) >= _SOUND and len(bad) <= rest.size:
        for chain in bad:
            yield self.finding(
                Severity.ERROR,
                chain.layer,
                "its running means do not follow from the weights: predicted from "
                f"{_basis(chain)}: correlation {chain.correlation:.2f}, in sound networks above "
                f"{_SOUND:g}",
                _FIX,
                instead=_INSTEAD,
                correlation=chain.correlation,
                deviation=chain.deviation,
                channels=chain.channels,
                layers=len(chains.found),
                of=chains.number,
            )
        return
    if not chains.found:
        return
    correlation = median(_correlations(chains.found))
    deviation = median(_deviations(chains.found))
    if correlation < _BROKEN and deviation >= _HARMFUL:
        text = f"correlation {correlation:.2f} over {_number(chains, 'layers')}, in sound networks "
        yield _of_all(self, chains, f"{text}above {_SOUND:g}")
    elif deviation > _OTHER_EPOCH and len(chains.found) >= _FEWEST:
        text = f"off by {deviation:.2f} standard deviations in the median of "
        yield _of_all(self, chains, f"{text}{_number(chains, 'layers')}, in sound networks .15")


def _correlations(chains: Sequence[Chain]) -> Floats:
    return np.array([chain.correlation for chain in chains])


def _deviations(chains: Sequence[Chain]) -> Floats:
    return np.array([chain.deviation for chain in chains])


def _upper_quartile(numbers: Floats) -> float:
    """As a sample's; the module's import takes longer than most files."""
    from statistics import quantiles

    return float(quantiles(numbers.tolist(), n=4)[2])


def _bad(chains: Chains) -> list[Chain]:
    return [c for c in chains.found if c.correlation < _BROKEN and c.deviation >= _HARMFUL]


def is_settled(chains: Chains) -> bool:
    """Whether a graph's chains speak against no layer, and so would not if they fitted better."""
    return not _bad(chains) and next(_by_graph(other_weights, chains), None) is None


def _of_all(self: Rule[Network, Finding], chains: Chains, text: str) -> Finding:
    return self.finding(
        Severity.WARNING,
        None,
        "the running means do not follow from the weights: predicted from the affine before each "
        f"layer and the weights between, {text}",
        _FIX,
        instead=_INSTEAD,
        correlation=median(_correlations(chains.found)),
        deviation=median(_deviations(chains.found)),
        layers=len(chains.found),
        of=chains.number,
    )


def _number(chains: Chains, what: str) -> str:
    return f"{len(chains.found):,} of {chains.number:,} {what}"


def _basis(chain: Chain) -> str:
    return f"{_named(chain.norms, 'affine')} and {_named(chain.maps, 'weights')}"


def _named(names: Sequence[str], what: str) -> str:
    """bn3's affine; bn3's and bn4's affine; that of 7 layers."""
    if not names:
        return f"no {what}"
    if len(names) <= _NAMED:
        return f"{' and '.join(f'''{name}'s''' for name in names)} {what}"
    return f"the {what} of {count(len(names), 'layer')}"
