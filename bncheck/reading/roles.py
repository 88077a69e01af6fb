"""What the tensors of a normalisation layer are called, in all frameworks."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: PyTorch's names, Keras' and TensorFlow's, PaddlePaddle's, Chainer's, Darknet's.
STATISTICS: Final = {
    "running_mean": "running_mean",
    "running_var": "running_var",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
    "moving_variance": "running_var",
    "_mean": "running_mean",
    "_variance": "running_var",
    "avg_mean": "running_mean",
    "avg_var": "running_var",
    "rolling_mean": "running_mean",
    "rolling_variance": "running_var",
}
#: Batch Renormalization's standard deviations, and the mean that some put beside them.
DEVIATIONS: Final = frozenset(("running_std", "running_avg_std"))
RENORM_MEANS: Final = frozenset(("running_mean", "running_avg_mean"))
AFFINE: Final = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
COUNTER: Final = {"num_batches_tracked": "num_batches_tracked"}

#: Before the place of a tensor in a list, which is all that it is called by.
UNNAMED: Final = "["
_UNNAMED: Final = re.compile(r"\[\d+\](?:\.|\Z)")

#: The ends of what Weight Norm and Spectral Norm make of a weight, in torch's old and new names.
REPARAMETRISED: Final = ("weight_g", "weight_orig", ".original0", ".0._u")

#: `running_covar` of complex and whitening relatives, `running_std`, other spellings.
_LIKE_A_STATISTIC: Final = re.compile(r"(?:running|moving|rolling|population)_?[a-z]", re.I)
#: What TensorFlow's variables and checkpoints, and the states of Flax NNX, put behind a name.
_SUFFIXES: Final = (":0", "/.ATTRIBUTES/VARIABLE_VALUE", ".raw_value", ".value", "/value")

#: Letters of names that are remembered: a file can have some of megabytes.
_REMEMBERED: Final = 200


def split_name(tensor: str) -> tuple[str, str]:
    """layer1.0.bn1.running_mean -> (layer1.0.bn1, running_mean)."""
    return _split(tensor) if len(tensor) <= _REMEMBERED else _split.__wrapped__(tensor)


@lru_cache(maxsize=1 << 16)  # every rule asks anew
def _split(tensor: str) -> tuple[str, str]:
    if tensor.endswith(_SUFFIXES):  # asked of all at once, as few names have one
        for suffix in _SUFFIXES:
            tensor = tensor.removesuffix(suffix)
    cut = max(tensor.rfind("."), tensor.rfind("/"))
    return tensor[: max(cut, 0)], tensor[cut + 1 :]


def is_unnamed(name: str) -> bool:
    """Whether a tensor has a place in a list for a name, and not a name with a bracket."""
    return _UNNAMED.match(name) is not None


def looks_like_a_statistic(own_name: str) -> bool:
    """Whether the last part of a name speaks of running statistics, in whatever spelling."""
    return own_name in STATISTICS or bool(_LIKE_A_STATISTIC.match(own_name))
