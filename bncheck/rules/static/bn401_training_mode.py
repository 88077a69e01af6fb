"""BN401."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.reading.kinds import NormKind
from bncheck.rules.rule import Network, Rule, rule

_CAN_TRAIN = (NormKind.BATCH, NormKind.SYNC, NormKind.INSTANCE)


@rule("BN401", "batchnorm-in-training-mode", Severity.ERROR, Severity.INFO)
def training_mode(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """A BatchNorm was saved in training mode.

    In a program (ONNX, TorchScript, .pt2) the mode is part of the file: it will normalise with the
    batch wherever it runs, and its running statistics are not used. In a pickled module it is a
    flag that model.eval() resets, so only worth knowing.

    Criterion: training_mode=1 or the older outputs in ONNX, training=True in TorchScript or .pt2
    (error), in a pickled module (info), for a layer that has running statistics.

    Fix: call model.eval() before exporting or saving.
    """
    training = [
        layer
        for layer in network.layers
        if layer.training and layer.tracked and layer.kind in _CAN_TRAIN
    ]
    severity = Severity.ERROR if network.is_program else Severity.INFO
    for layer in training:
        yield self.finding(
            severity,
            layer.name,
            "was exported in training mode: it normalises with the batch and ignores its statistics"
            if network.is_program
            else "is in training mode",
            "call model.eval() and export again"
            if network.is_program
            else "call model.eval() before it is used",
        )
