"""Rules about two reports of the same model; a gate makes their findings."""

from __future__ import annotations

from typing import Final

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule

grown_w2: Final[Rule[None, Finding]] = Rule(
    "BN501",
    "w2-has-grown",
    (Severity.ERROR,),
    explanation="""A layer's statistics agree less with the data than they did.

Both figures may be below the thresholds and the change still be news: something in the training or
in the data is different from when the earlier report was made.

Criterion: with `bncheck gate --against REPORT`, a layer's W2 in the eval cascade is larger than in
that report by more than `[tool.bncheck.against] w2-growth` (0.05 if not set).

Fix: recalibrate; or, where the change is meant, compare with the new report from now on.""",
)

fewer_folded: Final[Rule[None, Finding]] = Rule(
    "BN502",
    "fewer-batchnorms-folded",
    (Severity.ERROR,),
    explanation="""Fewer BatchNorms can be folded than before.

A change of the model put something between a BatchNorm and the layer that took it over, and
inference pays for it from now on.

Criterion: with `bncheck gate --against REPORT`, the number of folded BatchNorms is smaller than in
that report.

Fix: the finding names the BatchNorms that are kept, and why.""",
)
