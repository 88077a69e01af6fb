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
    gives a new one: uniform in (-b, b), b = 1/sqrt(fan_in), none beyond, variance b^2/3.

    Fix: load the missing weights; recalibrating cannot restore them.
    """
    if not network.both_poor:
        return
    untouched = [m for m in network.layers if at_initial_statistics(m.layer)]
    reruns = network.measurement.reruns
    fresh = () if reruns is None else reruns.untrained()
    if untouched and len(untouched) < len(network.layers):
        what, worst = f"{untouched[0].layer.name} is at its initial values", untouched[0]
    elif fresh:
        what, worst = f"{fresh[0]} is at the weights of a new layer", network.culprit
    else:
        return
    yield network.finding(
        self,
        Severity.ERROR,
        worst,
        network.with_results(
            f"{what}, and results are poor with running and with measured statistics: the "
            "weights were not loaded"
        ),
        "load the weights of this part (look for names that load_state_dict(strict=False) "
        "dropped); recalibrating cannot restore them",
        untrained=list(fresh),
    )
