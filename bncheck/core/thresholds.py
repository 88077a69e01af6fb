"""The numbers that decide, each with its meaning. Measured: see the rules' explanations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bncheck.core.findings import Severity

#: W2 of a layer: RMS error of its normalised output. Below .20 at most 0.8 % of predictions flip.
W2_WARNING: Final = 0.20
W2_ERROR: Final = 0.40


@dataclass(frozen=True)
class Thresholds:
    """From which W2 of a layer a finding is a warning, and from which an error."""

    w2_warning: float = W2_WARNING
    w2_error: float = W2_ERROR

    def severity(self, w2: float) -> Severity | None:
        """How bad a W2 is; None where it is fine."""
        if w2 >= self.w2_error:
            return Severity.ERROR
        return Severity.WARNING if w2 >= self.w2_warning else None

    def written(self, w2: float) -> str:
        """A W2 in digits that stand on its own side of the limits: 0.197 where that is fine."""
        texts = [f"{w2:.{digits}f}" for digits in (2, 3, 4, 5)]
        true = [text for text in texts if self.severity(float(text)) is self.severity(w2)]
        return true[0] if true else f"{w2!r}"


DEFAULT: Final = Thresholds()

#: A running variance below this is a channel that never varies.
DEAD_VARIANCE: Final = 1e-10

#: No channel counts for more where a third of them must take part for a layer to reach an error.
COMMON: Final = 0.7

#: W2 of the first layer from which other ways to prepare the data are tried.
W2_STEM: Final = 0.10

#: W2 of a model from which results, where labels are there, are compared with other statistics'.
W2_MILD: Final = 0.10
