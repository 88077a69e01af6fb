"""Which norms a plan is about, and what kinds of them there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum


class Norms(StrEnum):
    """The norms to fold: those that are a fixed map, or the affine of every other one, too."""

    BATCH = "batch"
    ALL = "all"


class Family(StrEnum):
    """What people call a norm."""

    BATCH = "BatchNorm"
    INSTANCE = "InstanceNorm"
    LAYER = "LayerNorm"
    RMS = "RMSNorm"
    GROUP = "GroupNorm"
    WEIGHT = "WeightNorm"
    SPECTRAL = "SpectralNorm"
    #: Not a norm: a product and a sum that were learned as they are. It may go, and need not.
    PLAIN = "affine map"


#: The parameters that a weight is computed from, as torch names them in either generation.
_DIRECTION = re.compile(r"(?:\.original|_)[01gv]$")
_VECTOR = re.compile(r"_u$")

_BY_KIND = {
    "instance_norm": Family.INSTANCE,
    "InstanceNormalization": Family.INSTANCE,
    "group_norm": Family.GROUP,
    "native_group_norm": Family.GROUP,
    "GroupNormalization": Family.GROUP,
    "rms_norm": Family.RMS,
    "RMSNormalization": Family.RMS,
    "layer_norm": Family.LAYER,
    "native_layer_norm": Family.LAYER,
    "LayerNormalization": Family.LAYER,
}
#: What onnxruntime's optimiser fuses norms into.
_FUSED = {
    "SimplifiedLayerNormalization": Family.RMS,
    "SkipLayerNormalization": Family.LAYER,
    "SkipSimplifiedLayerNormalization": Family.RMS,
    "EmbedLayerNormalization": Family.LAYER,
    "SkipGroupNorm": Family.GROUP,
    "GroupNorm": Family.GROUP,
}


def computed_weight(names: Sequence[str]) -> Family | None:
    """What computes a weight from parameters of these names: a Weight or a Spectral Norm."""
    if any(map(_VECTOR.search, names)):
        return Family.SPECTRAL
    return Family.WEIGHT if len(names) == 2 and all(map(_DIRECTION.search, names)) else None


def normalises_samples(kind: str) -> bool:
    """Whether an operator is a norm of each sample by its name, described or not."""
    return kind in _BY_KIND or kind in _FUSED


def is_fused(kind: str) -> bool:
    """Whether an operator is a norm that onnxruntime alone knows."""
    return kind in _FUSED


def family_of(kind: str) -> Family:
    """The family of a call that is a norm, by its operator."""
    return _BY_KIND.get(kind) or _FUSED.get(kind, Family.BATCH)
