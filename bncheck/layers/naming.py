"""Which tensors belong to one layer, and which role each has in it.

A layer has one tensor for each role: with two, nobody but the code that loads the file knows which
of them it takes.
"""

from __future__ import annotations

from collections.abc import Mapping

from bncheck.core.errors import BncheckError, quoted
from bncheck.reading.checkpoint import NormModule
from bncheck.reading.roles import AFFINE, COUNTER, STATISTICS, looks_like_a_statistic, split_name

Roles = dict[str, str]

_BOTH = {"running_mean", "running_var"}


def group(names: Mapping[str, object], modules: Mapping[str, NormModule]) -> dict[str, Roles]:
    """Layer name -> role -> tensor name: what the modules say, then what the names do.

    By its names a layer is what has a statistic or a batch counter. One that lacks mean or variance
    and has a `running_covar` or the like is a relative of BatchNorm, and left out.
    Raises BncheckError where two tensors have one role.
    """
    found: dict[str, Roles] = {name: dict(module.tensors) for name, module in modules.items()}
    spoken_for = {name for roles in found.values() for name in roles.values()}
    spoken_for = spoken_for.union(*(module.sources for module in modules.values()))
    named, relatives = _by_name(names, spoken_for)
    for owner, roles in named.items():
        if owner in modules:
            _compare(found[owner], roles)
        elif owner not in relatives or roles.keys() >= _BOTH:
            found[owner] = roles
            _add_affine(roles, owner, names)
    return found


def _by_name(
    names: Mapping[str, object], spoken_for: set[str]
) -> tuple[dict[str, Roles], set[str]]:
    """The statistics and counters of each owner, and the owners of other running numbers."""
    found: dict[str, Roles] = {}
    relatives: set[str] = set()
    for name in names:
        owner, own_name = split_name(name)
        role = STATISTICS.get(own_name) or COUNTER.get(own_name)
        if name in spoken_for:
            continue
        if role:
            _add(found.setdefault(owner, {}), role, name)
        elif looks_like_a_statistic(own_name):
            relatives.add(owner)
    return found, relatives


def _compare(said: Roles, named: Roles) -> None:
    """What a module lacks is not made up from names: it may compute its variance from another."""
    for role, name in named.items():
        if role in said or role in COUNTER:
            _add(said, role, name)


def _add_affine(layer: Roles, owner: str, names: Mapping[str, object]) -> None:
    for own_name, role in AFFINE.items():
        for name in (f"{owner}.{own_name}", f"{owner}/{own_name}") if owner else (own_name,):
            if name in names:
                _add(layer, role, name)


def _add(layer: Roles, role: str, name: str) -> None:
    if layer.setdefault(role, name) != name:
        raise BncheckError(
            f"holds two tensors that could be the {role} of one layer: {quoted(layer[role])} and "
            f"{quoted(name)}",
            "remove the one that the model does not load",
        )
