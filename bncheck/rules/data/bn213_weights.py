"""BN213."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.layers.facts import at_initial_statistics
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule


@rule("BN213", "weights-at-fault", Severity.ERROR)
def weights_at_fault(
    self: Rule[MeasuredNetwork, Finding], network: MeasuredNetwork
) -> Iterator[Finding]:
    """Neither the running nor measured statistics serve: the weights themselves are at fault.

    A block that load_state_dict(strict=False) left at its initial values has lost its weights with
    its statistics, and no statistics bring them back. Weights that were pruned, quantised or edited
    after training are another kind.

    Criterion: with labels the accuracy is at most 0.6 with running and measured statistics, and
    a layer's statistics are at their initial values, or a layer's weights are those that PyTorch
    gives a new one: uniform in (-b, b), b = 1/sqrt(fan_in), none beyond, variance b^2/3. Without
    labels, both: some statistics and some weights are new.

    Fix: load the missing weights; recalibrating cannot restore them.
    """
    untouched = [m for m in network.layers if at_initial_statistics(m.layer)]
    if len(untouched) == len(network.layers):
        untouched = []
    if not network.both_poor and (network.labelled or not untouched):
        return
    reruns = network.measurement.reruns
    fresh = () if reruns is None else reruns.untrained()
    if not untouched and not fresh:
        return
    if not network.labelled and not 0 < len(fresh) < len(network.layers):
        return  # a network that is new as a whole has lost nothing
    what = f"{untouched[0].layer.name} is at its initial values" if untouched else ""
    what = what or f"{fresh[0]} is at the weights of a new layer"
    why = ", and results are poor with running and with measured statistics"
    if not network.labelled:
        why = f", as are the weights of {fresh[0]}"
    yield network.finding(
        self,
        Severity.ERROR,
        untouched[0] if untouched else network.culprit,
        network.with_results(f"{what}{why}: the weights were not loaded"),
        "load the weights of this part (look for names that load_state_dict(strict=False) "
        "dropped); recalibrating cannot restore them",
        untrained=list(fresh),
    )
