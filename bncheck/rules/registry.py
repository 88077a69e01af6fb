"""All rules by code, and choosing among them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError, quoted
from bncheck.core.findings import Finding
from bncheck.core.words import nearest
from bncheck.rules.data.bn201_noisy import noisy
from bncheck.rules.data.bn202_stale import stale
from bncheck.rules.data.bn203_merged import merged
from bncheck.rules.data.bn204_ordered import ordered
from bncheck.rules.data.bn205_preprocessing import preprocessing
from bncheck.rules.data.bn206_dropout import dropout_shift
from bncheck.rules.data.bn207_disagree import disagree
from bncheck.rules.data.bn208_would_hurt import would_hurt
from bncheck.rules.data.bn209_single_value import single_value
from bncheck.rules.data.bn210_converted import converted
from bncheck.rules.data.bn211_exchanged import exchanged
from bncheck.rules.data.bn212_outlier import outlier
from bncheck.rules.data.bn213_weights import weights_at_fault
from bncheck.rules.data.bn214_other_code import other_code
from bncheck.rules.data.bn215_shared import shared
from bncheck.rules.data.bn216_batch_dependent import batch_dependent
from bncheck.rules.data.bn217_harmless import harmless
from bncheck.rules.data.bn218_not_recalibrated import not_recalibrated
from bncheck.rules.file_rules import FILE_RULES
from bncheck.rules.folding import fold_overflow, not_folded, parity_failure
from bncheck.rules.regression import fewer_folded, grown_w2
from bncheck.rules.rule import AnyRule, Rule
from bncheck.rules.series.bn301_frozen_parameters import frozen_parameters
from bncheck.rules.series.bn302_frozen_statistics import frozen_statistics
from bncheck.rules.series.bn303_ranks import ranks_disagree
from bncheck.rules.series.bn304_late_shift import late_shift
from bncheck.rules.series.bn305_lost_on_resume import lost_on_resume
from bncheck.rules.series.bn306_trailing import trailing
from bncheck.rules.series.bn307_non_finite_training import non_finite_training
from bncheck.rules.series.bn308_beside_training import beside_training

if TYPE_CHECKING:  # the measuring and the series are not needed for one file
    from bncheck.rules.data.claim import Claim
    from bncheck.rules.data.measured_network import MeasuredNetwork
    from bncheck.series.movement import Movement

#: Explanations of a measurement, which compete.
EXPLANATIONS: Final[tuple[Rule[MeasuredNetwork, Claim], ...]] = (
    noisy,
    stale,
    merged,
    preprocessing,
    dropout_shift,
    converted,
    exchanged,
    shared,
)
#: What is asked, at the price of running the model again, only where none of these predicts it.
LAST_EXPLANATIONS: Final[tuple[Rule[MeasuredNetwork, Claim], ...]] = (
    ordered,
    outlier,
    other_code,
)
#: What results say of a measurement.
RESULT_RULES: Final[tuple[Rule[MeasuredNetwork, Finding], ...]] = (
    disagree,
    would_hurt,
    single_value,
    weights_at_fault,
    batch_dependent,
    harmless,
    not_recalibrated,
)
#: What several snapshots say.
SERIES_RULES: Final[tuple[Rule[Movement, Finding], ...]] = (
    frozen_parameters,
    frozen_statistics,
    ranks_disagree,
    late_shift,
    lost_on_resume,
    trailing,
    non_finite_training,
    beside_training,
)
#: What folding and comparing with an earlier report find by themselves.
_OTHERS: Final[tuple[Rule[None, Finding], ...]] = (
    not_folded,
    fold_overflow,
    parity_failure,
    grown_w2,
    fewer_folded,
)

#: In the order of their codes, which is also the order in which findings are shown.
RULES: Final[tuple[AnyRule, ...]] = tuple(
    sorted(
        (*FILE_RULES, *EXPLANATIONS, *LAST_EXPLANATIONS, *RESULT_RULES, *SERIES_RULES, *_OTHERS),
        key=lambda rule: rule.code,
    )
)


def find_rule(word: str) -> AnyRule:
    """The rule with that code or name; raises BncheckError with the nearest one otherwise."""
    for rule in RULES:
        if word.upper() == rule.code or word.lower() == rule.name:
            return rule
    known = [rule.name for rule in RULES]
    is_code = re.fullmatch(r"bn\d+", word.lower())  # a number that is near means nothing
    near = None if is_code else nearest(word.lower(), known)
    hint = f"did you mean {near}?" if near else "`bncheck rule --all` lists them"
    raise BncheckError(f"there is no rule {quoted(word)}", hint)
