"""The BatchNorms of Flax, Haiku and Keras 3, which call their statistics by names of their own.

Flax: `batch_stats/PATH/mean` and `var`, `params/PATH/scale` and `bias`; Flax NNX the same four
beside each other. Haiku: `PATH/~/mean_ema/average` and `var_ema`, `PATH/scale` and `offset`.
Keras 3: `PATH/vars/0` to `3`, in the order gamma, beta, moving mean, moving variance.
https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html#flax.linen.BatchNorm
https://github.com/google-deepmind/dm-haiku/blob/main/haiku/_src/batch_norm.py
https://keras.io/api/layers/normalization_layers/batch_normalization/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from bncheck.reading.roles import split_name
from bncheck.reading.tensors import LazyTensor

Path: TypeAlias = tuple[str, ...]
Roles: TypeAlias = dict[str, str]
Tensors: TypeAlias = Mapping[str, LazyTensor]

#: The collections that these frameworks keep a model's tensors in; no part of a layer's name.
_COLLECTIONS: Final = frozenset(("params", "batch_stats", "variables"))
_STATISTICS: Final = {"mean": "running_mean", "var": "running_var", "variance": "running_var"}
_AVERAGES: Final = {"mean_ema": "running_mean", "var_ema": "running_var"}
_AFFINE: Final = {
    **dict.fromkeys(("scale", "gamma", "weight"), "weight"),
    **dict.fromkeys(("offset", "beta", "bias"), "bias"),
}
#: A file can give its tensors names of megabytes; these are taken apart.
_LONGEST_NAME: Final = 2000
_BOTH: Final = ("running_mean", "running_var")
_KERAS: Final = re.compile(r"(?:^|(.*)[./\\])vars[./\\](\d+)$", re.DOTALL)
#: Keras' own names for the layer; by these one without gamma or beta is known.
_KERAS_NAME: Final = re.compile(r"batch_?norm|(?:^|[_./\\])bn\d*(?:$|[_./\\])", re.IGNORECASE)


def framework_layers(tensors: Tensors) -> dict[str, Roles]:
    """Layer name -> role -> tensor name, for the layers that are known by no usual name."""
    tensors = {name: tensor for name, tensor in tensors.items() if len(name) <= _LONGEST_NAME}
    return {**dict(_flax_and_haiku(tensors)), **dict(_keras(tensors))}


def _flax_and_haiku(tensors: Tensors) -> Iterator[tuple[str, Roles]]:
    found: dict[Path, Roles] = {}
    averages: set[Path] = set()
    stated: set[Path] = set()
    for name in tensors:
        owner, own = split_name(name)
        if own == "average" and split_name(owner)[1] in _AVERAGES:
            layer, moment = split_name(owner)
            path = _path(layer.removesuffix("/~"))
            averages.add(path)
            found.setdefault(path, {})[_AVERAGES[moment]] = name
        elif own in _STATISTICS:
            path = _path(owner)
            found.setdefault(path, {}).setdefault(_STATISTICS[own], name)
            if "batch_stats" in re.split(r"[./]", owner):
                stated.add(path)
    affine = _affine(tensors) if found else {}
    for path, roles in found.items():
        whole = all(role in roles for role in _BOTH)
        weights = _of_its_size(roles, _affine_of(path, affine), tensors) if whole else {}
        if path in stated or path in averages or (whole and weights and _alike(roles, tensors)):
            yield _joined(path), {**roles, **weights}


def _affine(tensors: Tensors) -> dict[Path, Roles]:
    affine: dict[Path, Roles] = {}
    for name in tensors:
        owner, own = split_name(name)
        if own in _AFFINE:
            affine.setdefault(_path(owner), {}).setdefault(_AFFINE[own], name)
    return affine


def _path(owner: str) -> Path:
    """Where a layer is, whichever collection the tensor is in."""
    return tuple(part for part in re.split(r"[./]", owner) if part and part not in _COLLECTIONS)


def _affine_of(path: Path, affine: Mapping[Path, Roles]) -> Roles:
    """Haiku keeps statistics in a `state`, beside `params`."""
    return affine.get(path) or affine.get(tuple(part for part in path if part != "state")) or {}


def _joined(path: Path) -> str:
    return ("/" if "~" in path else ".").join(part for part in path if part != "state")


def _alike(roles: Roles, tensors: Tensors) -> bool:
    return tensors[roles["running_mean"]].shape == tensors[roles["running_var"]].shape


def _of_its_size(roles: Roles, weights: Roles, tensors: Tensors) -> Roles:
    size = tensors[roles["running_mean"]].elements
    return {role: name for role, name in weights.items() if tensors[name].elements == size}


def _keras(tensors: Tensors) -> Iterator[tuple[str, Roles]]:
    variables: dict[str, dict[int, str]] = {}
    for name in tensors:
        if "vars" in name and (match := _KERAS.match(name)):
            variables.setdefault(match[1] or "", {})[int(match[2])] = name
    for owner, numbered in variables.items():
        names = [numbered[number] for number in sorted(numbered)]
        shapes = {tensors[name].shape for name in names}
        flat = len(shapes) == 1 and len(next(iter(shapes)) or ()) == 1
        if not flat or sorted(numbered) != list(range(len(names))):
            continue
        if len(names) == 4:
            yield owner, dict(zip(("weight", "bias", *_BOTH), names, strict=True))
        elif len(names) in (2, 3) and _KERAS_NAME.search(owner):
            yield owner, dict(zip(_BOTH, names[-2:], strict=True))
