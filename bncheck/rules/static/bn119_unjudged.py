"""BN119."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Network, Rule, rule

_FIX = "check by hand that the model uses them as intended"


@rule("BN119", "unjudged-statistics", Severity.INFO)
def unjudged_statistics(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Tensors that look like a normalisation layer's are not judged.

    The normaliser of a policy's inputs (habitat-baselines, rl_games, Stable-Baselines3, rsl_rl)
    keeps a running mean and variance and counts samples; it is not a BatchNorm.

    Complex and whitening relatives of BatchNorm keep a covariance beside the mean, and a misspelt
    statistic is never loaded. No rule knows their sound values; BN102 looks for NaN and infinity in
    them.

    Criterion: a tensor whose name begins with running_, moving_ or population_ (in any spelling),
    or ends with running_mean, moving_variance or the like, and that belongs to no layer of the
    report; a mean and a variance of one shape beside each other; what an input normaliser keeps;
    or a weight or bias beside running statistics that has neither one number nor one for each
    channel, as conditional BatchNorms have.

    Fix: none, if the model is meant to load them.
    """
    for group in network.unjudged:
        said = f"holds {group.named}, which no rule checks"
        if group.normaliser:
            said = f"normalises inputs ({group.named}) and is not a BatchNorm: no rule checks it"
        yield self.finding(Severity.INFO, group.owner, said, _FIX, tensors=len(group.names))
    for layer in network.tracked:
        for role, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            if tensor is not None and tensor.size not in (1, layer.channels):
                yield self.finding(
                    Severity.INFO,
                    layer.name,
                    f"has a {role} of {tensor.size:,} numbers for {layer.channels:,} channels, "
                    "which no rule checks",
                    _FIX,
                    numbers=tensor.size,
                )
