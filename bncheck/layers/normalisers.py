"""Running statistics of inputs: policies of reinforcement learning normalise what they observe.

Such a normaliser counts samples, has no weight and no bias, and sees another distribution when its
policy acts otherwise: nothing that is known of BatchNorms holds for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from bncheck.reading.roles import AFFINE, COUNTER, looks_like_a_statistic

#: rl_games, habitat-baselines, Stable-Baselines3, rsl_rl, Brax; skrl says `current_count`.
_COUNTS: Final = frozenset(("count", "_count", "current_count", "_current_count", "n_samples"))
_NAMES: Final = re.compile(
    r"(?:running_mean_std|mean_std|mean_and_var|running_norm|_rms|normali[sz]er|preprocessor"
    r"|obs(?:ervation)?_norm|value_norm|reward_norm)s?\d*$",
    re.IGNORECASE,
)
#: Letters of a name that are looked at: it may have millions.
_LONGEST: Final = 60
_MOMENTS: Final = frozenset(
    f"{before}{moment}" for before in ("", "_") for moment in ("mean", "var", "variance", "std")
)


def is_input_normaliser(owner: str, own_names: Iterable[str]) -> bool:
    """Whether the tensors of one owner, by their own names, are an input normaliser's."""
    names = set(own_names)
    if not names.isdisjoint((*AFFINE, *COUNTER, "scale", "offset")):
        return False
    moments = any(name in _MOMENTS or looks_like_a_statistic(name) for name in names)
    return moments and (not names.isdisjoint(_COUNTS) or bool(_NAMES.search(owner[-_LONGEST:])))
