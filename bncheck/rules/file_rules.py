"""The rules about one file, apart from the others, which most commands have no use for."""

from __future__ import annotations

from typing import Final

from bncheck.core.findings import Finding
from bncheck.rules.rule import Network, Rule
from bncheck.rules.static.bn101_never_updated import never_updated
from bncheck.rules.static.bn102_non_finite import non_finite
from bncheck.rules.static.bn103_negative_variance import negative_variance
from bncheck.rules.static.bn104_missing_statistics import missing_statistics
from bncheck.rules.static.bn105_under_warmed import under_warmed
from bncheck.rules.static.bn106_batch_counter import unusable_counter
from bncheck.rules.static.bn107_uneven_counters import uneven_counters
from bncheck.rules.static.bn108_low_precision import low_precision
from bncheck.rules.static.bn109_dead_channels import report_dead_channels
from bncheck.rules.static.bn110_extreme_gain import extreme_gain
from bncheck.rules.static.bn111_vanishing_scale import vanishing_scale
from bncheck.rules.static.bn112_momentum_convention import momentum_convention
from bncheck.rules.static.bn113_noisy_configuration import noisy_configuration
from bncheck.rules.static.bn114_eps_sensitive import eps_sensitive
from bncheck.rules.static.bn115_dead_activation import dead_activation
from bncheck.rules.static.bn116_not_tracked import not_tracked
from bncheck.rules.static.bn117_other_weights import other_weights
from bncheck.rules.static.bn118_half_loaded import half_loaded
from bncheck.rules.static.bn119_unjudged import unjudged_statistics
from bncheck.rules.static.bn120_non_finite_norm import non_finite_norm
from bncheck.rules.static.bn121_spectral_vectors import spectral_vectors
from bncheck.rules.static.bn122_weight_norm import weight_direction
from bncheck.rules.static.bn401_training_mode import training_mode

#: What one file says.
FILE_RULES: Final[tuple[Rule[Network, Finding], ...]] = (
    never_updated,
    non_finite,
    negative_variance,
    missing_statistics,
    under_warmed,
    unusable_counter,
    uneven_counters,
    low_precision,
    report_dead_channels,
    extreme_gain,
    vanishing_scale,
    momentum_convention,
    noisy_configuration,
    eps_sensitive,
    dead_activation,
    not_tracked,
    other_weights,
    half_loaded,
    unjudged_statistics,
    non_finite_norm,
    spectral_vectors,
    weight_direction,
    training_mode,
)
