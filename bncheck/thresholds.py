"""The numbers that decide, each with its meaning. Measured: see the rules' explanations."""

from __future__ import annotations

from typing import Final

#: W2 of a layer: RMS error of its normalised output. Below .20 at most 0.8 % of predictions flip.
W2_WARNING: Final = 0.20
W2_ERROR: Final = 0.40

#: A running variance below this is a channel that never varies.
DEAD_VARIANCE: Final = 1e-10

#: W2 of the first layer from which other ways to prepare the data are tried.
W2_STEM: Final = 0.10
