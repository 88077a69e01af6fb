"""BN218."""

from __future__ import annotations

from bncheck.core.findings import Finding, Severity
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, nothing

not_recalibrated: Rule[MeasuredNetwork, Finding] = Rule(
    "BN218",
    "not-recalibrated",
    (Severity.ERROR, Severity.WARNING),
    """`recalibrate` wrote nothing: nothing shows that measured statistics are the right ones.

What was measured fits the data that were given, whatever these are. It is written only where the
running statistics are shown to be at fault, and the copy does no worse.

Criterion: statistics and data disagree, and `inspect` on the same input does not recommend
`recalibrate`: the data or the weights are at fault, or nothing tells these from the statistics; the
loss would rise by more than chance (two standard errors) where as many answers are right; W2 would
not fall; or, without labels, the numbers show no fault by themselves (BN101, BN105, BN118, BN210,
BN211) and the model would be less sure of its predictions, or says nothing of that. Where results
are worse, it is BN208. A warning where --force wrote all the same.

Fix: what `inspect` says of the same input. Labels (or --metric) show most; --force writes where you
know that these data are prepared as in deployment.""",
    nothing,
)
