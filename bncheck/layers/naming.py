"""Which tensors belong to one layer, and which role each has in it.

A layer has one tensor for each role: with two, only the code that loads the file knows which
of them it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bncheck.core.errors import BncheckError, quoted
from bncheck.layers.frameworks import framework_layers
from bncheck.layers.normalisers import is_input_normaliser
from bncheck.reading.checkpoint import NormModule
from bncheck.reading.roles import (
    AFFINE,
    COUNTER,
    DEVIATIONS,
    RENORM_MEANS,
    STATISTICS,
    looks_like_a_statistic,
)
from bncheck.reading.tensors import TensorMap

Roles = dict[str, str]

_BOTH = {"running_mean", "running_var"}


def group(tensors: TensorMap, modules: Mapping[str, NormModule]) -> dict[str, Roles]:
    """Layer name -> role -> tensor name: what the modules say, then what the names do.

    By its names a layer is what has a statistic or a batch counter. One that lacks mean or variance
    and has a `running_covar` or the like is a relative of BatchNorm, and left out, as are the
    normalisers of a policy's inputs. Raises BncheckError where two tensors have one role.
    """
    found: dict[str, Roles] = {name: dict(module.tensors) for name, module in modules.items()}
    spoken_for = {name for roles in found.values() for name in roles.values()}
    spoken_for = spoken_for.union(*(module.sources for module in modules.values()))
    for owner, named in tensors.owners.items():
        left = [(own, name) for own, name in named if name not in spoken_for]
        roles: Roles = {}
        for own, name in left:
            if role := STATISTICS.get(own) or COUNTER.get(own):
                _add(roles, role, name)
        roles = {**roles, **_renorm(named)}
        if not roles:
            continue
        if owner in modules:
            _compare(found[owner], roles)
        elif not is_input_normaliser(owner, (own for own, _ in named)) and not (
            _is_relative(left) and not roles.keys() >= _BOTH
        ):
            for own, name in named:
                if role := AFFINE.get(own):
                    _add(roles, role, name)
            found[owner] = roles
    free = {name: tensor for name, tensor in tensors.lazy.items() if name not in spoken_for}
    return {**framework_layers(free), **found}


def _renorm(named: Sequence[tuple[str, str]]) -> Roles:
    """Batch Renormalization keeps a running standard deviation, and has weights or a counter."""
    own_names = {own for own, _ in named}
    if own_names.isdisjoint((*AFFINE, *COUNTER, "r_max", "d_max")):
        return {}
    roles: Roles = {}
    for own, name in named:
        if own in RENORM_MEANS:
            roles["running_mean"] = name
        elif own in DEVIATIONS:
            roles["running_var"] = name
    has_variance = any(STATISTICS.get(own) == "running_var" for own in own_names)
    return roles if len(roles) == 2 and not has_variance else {}


def _is_relative(named: Sequence[tuple[str, str]]) -> bool:
    """Whether it keeps running numbers that BatchNorm does not have."""
    return any(
        looks_like_a_statistic(own) and own not in STATISTICS and own not in COUNTER
        for own, _ in named
    )


def _compare(said: Roles, named: Roles) -> None:
    """What a module lacks is not made up from names: it may compute its variance from another."""
    for role, name in named.items():
        if role in said or role in COUNTER:
            _add(said, role, name)


def _add(layer: Roles, role: str, name: str) -> None:
    if layer.setdefault(role, name) != name:
        raise BncheckError(
            f"holds two tensors that could be the {role} of one layer: {quoted(layer[role])} and "
            f"{quoted(name)}",
            "remove the one that the model does not load",
        )
