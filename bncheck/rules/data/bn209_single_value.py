"""BN209."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule


@rule("BN209", "single-value-per-channel", Severity.ERROR)
def single_value(
    self: Rule[MeasuredNetwork, Finding], network: MeasuredNetwork
) -> Iterator[Finding]:
    """A layer gets one value for each channel in a batch, so there is no variance to normalise by.

    In training PyTorch refuses it (Expected more than 1 value per channel); a framework that does
    not would output the bias and nothing else. It happens with batches of one image behind global
    pooling, and with the incomplete last batch of an epoch.

    Criterion: statistics and data disagree (W2 from 0.20), and batch size times positions is 1 in
    all batches given. An incomplete last batch of that kind is left out.

    Fix: give larger batches (--batch-size); in training drop the last incomplete batch
    (drop_last=True), or use GroupNorm.
    """
    single = network.measurement.single_value
    if single is not None:
        yield self.finding(
            Severity.ERROR,
            single,
            f"deviates (W2 {network.measurement.w2:.2f}), and gets one value per channel in "
            "every batch, so there are no batch statistics to tell why",
            "give larger batches (--batch-size, or the loader's own)",
            w2=network.measurement.w2,
        )
