"""Which family of normalisation a class name or an operator's name belongs to."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache


class NormKind(StrEnum):
    """Families of normalisation layers; the first four can carry running statistics."""

    BATCH = "BatchNorm"
    SYNC = "SyncBatchNorm"
    FROZEN = "FrozenBatchNorm"
    INSTANCE = "InstanceNorm"
    GROUP = "GroupNorm"
    LAYER = "LayerNorm"
    RMS = "RMSNorm"
    LOCAL_RESPONSE = "LocalResponseNorm"
    RENORM = "BatchRenorm"
    SPECTRAL = "SpectralNorm"
    WEIGHT = "WeightNorm"
    BATCH_OR_INSTANCE = "BatchNorm or InstanceNorm"
    BY_NAME = "LayerNorm or similar"


# In this order: "SyncBatchNorm" also contains "BatchNorm".
_NEEDLES = (
    ("frozenbatchnorm", NormKind.FROZEN),
    ("frozenbn", NormKind.FROZEN),
    ("syncbatchnorm", NormKind.SYNC),
    ("syncbn", NormKind.SYNC),
    ("synchronizedbatchnorm", NormKind.SYNC),
    ("batchnorm", NormKind.BATCH),
    ("batchrenorm", NormKind.RENORM),
    ("inplaceabn", NormKind.BATCH),
    ("instancenorm", NormKind.INSTANCE),
    ("groupnorm", NormKind.GROUP),
    ("rmsnorm", NormKind.RMS),
    ("layernorm", NormKind.LAYER),
    ("localresponsenorm", NormKind.LOCAL_RESPONSE),
)


@lru_cache(maxsize=256)
def kind_of_class(class_name: str) -> NormKind | None:
    """The family of `BatchNorm2d`, `timm.BatchNormAct2d`, `LayerNormalization`, `group_norm`..."""
    name = class_name.lower().replace("_", "")
    return next((kind for needle, kind in _NEEDLES if needle in name), None)


def is_norm_class(class_name: str) -> bool:
    """Whether a class is a normalisation layer by its name."""
    return kind_of_class(class_name) is not None
