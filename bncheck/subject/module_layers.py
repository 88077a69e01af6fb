"""A module's normalisation layers as `NormLayer`s, and what a module adds to those of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bncheck.layers.norm_layer import (
    DEFAULT_EPS,
    DEFAULT_MOMENTUM,
    NormLayer,
    Origin,
    Setting,
    bare_layer,
    same_eps,
)
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.norms import untracked_norms
from bncheck.reading.kinds import NormKind, kind_of_class
from bncheck.reading.roles import AFFINE
from bncheck.subject.given import has_fixed_mode

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array


def described_by(layers: tuple[NormLayer, ...], subject: Instrumented) -> tuple[NormLayer, ...]:
    """The layers with eps and momentum of the model's modules, where the file does not tell them.

    What the model runs with goes before --eps, or W2 would be that of another model.
    Those come along that track no statistics, of which a file may have no sign.
    """
    untracked = untracked_layers(subject)
    if not untracked:
        subject.require_norms()
    modules = {name: norm.module for name, norm in subject.by_file_name().items()}
    named = {layer.name for layer in layers}
    described = tuple(
        replace(
            layer,
            eps=_eps(layer.eps, modules[layer.name]),
            momentum=_from_module(layer.momentum, modules[layer.name], "momentum"),
        )
        if layer.name in modules
        else _named(layer, subject)
        for layer in layers
    )
    return (*described, *(layer for layer in untracked if layer.name not in named))


def _named(layer: NormLayer, subject: Instrumented) -> NormLayer:
    """With the kind that the model's class tells, where the file has only a name."""
    if layer.kind is not NormKind.BY_NAME:
        return layer
    (ours,) = subject.in_model({layer.name: None}) or ("",)
    module = dict(subject.model.named_modules()).get(ours)
    kind = None if module is None else kind_of_class(type(module).__name__)
    return layer if kind is None else replace(layer, kind=kind)


def unused_eps(
    said: tuple[NormLayer, ...], described: tuple[NormLayer, ...], option: float | None
) -> Iterator[str]:
    """A line where the model has another eps than --eps."""
    was = {layer.name for layer in said if layer.eps.origin is Origin.OPTION}
    ours = {x.eps.value for x in described if x.name in was and x.eps.origin is Origin.MODEL}
    others = sorted(eps for eps in ours if eps is not None and not same_eps(eps, option or 0.0))
    if others:
        has = ", ".join(f"{eps:g}" for eps in others)
        yield f"--eps {option:g} is not used where the model has its own eps ({has})"


def _eps(setting: Setting, module: object) -> Setting:
    if setting.origin is Origin.FILE or not hasattr(module, "eps"):
        return setting
    return _said(module, "eps", 0.0)


def _from_module(setting: Setting, module: object, name: str) -> Setting:
    if setting.known or not hasattr(module, name):
        return setting
    return _said(module, name, 0.0)


def _said(module: object, name: str, otherwise: float) -> Setting:
    """What a module says; traced ones have it in their code alone."""
    if not hasattr(module, name):
        return Setting(otherwise, Origin.ASSUMED)
    value = getattr(module, name)
    return Setting(None if value is None else float(value), Origin.MODEL)


def layers_of(subject: Instrumented) -> tuple[NormLayer, ...]:
    """The normalisation layers of a module in memory, which may be none."""
    found = list(untracked_layers(subject))
    fixed = has_fixed_mode(subject.model)
    for norm in subject.norms:
        module = norm.module
        counter = getattr(module, "num_batches_tracked", None)
        names = {"running_mean": norm.mean_name, "running_var": norm.var_name, **_affine(module)}
        tensors = _read(module, names)
        dot = f"{norm.name}." if norm.name else ""
        found.append(
            NormLayer(
                norm.name,
                norm.kind,
                mean=tensors["running_mean"],
                var=tensors["running_var"],
                weight=tensors.get("weight"),
                bias=tensors.get("bias"),
                batches=None if counter is None else float(counter),
                eps=_said(module, "eps", DEFAULT_EPS),
                momentum=_said(module, "momentum", DEFAULT_MOMENTUM),
                training=None if fixed else module.training,
                tracks_statistics=True,
                tensors={role: dot + own for role, own in names.items()},
            )
        )
    places = {name: place for place, (name, _) in enumerate(subject.model.named_modules())}
    return tuple(sorted(found, key=lambda layer: places[layer.name]))


def untracked_layers(subject: Instrumented) -> tuple[NormLayer, ...]:
    """The BatchNorms that track no running statistics, by the file's names."""
    found = []
    for name, module in untracked_norms(subject.model).items():
        kind = kind_of_class(type(module).__name__) or NormKind.BATCH
        affine = _read(module, _affine(module))
        found.append(
            replace(
                bare_layer(subject.file_name(name), kind, int(module.num_features)),
                weight=affine.get("weight"),
                bias=affine.get("bias"),
                eps=Setting(float(module.eps), Origin.MODEL),
                momentum=Setting(module.momentum, Origin.MODEL),
                training=module.training,
                tracks_statistics=False,
            )
        )
    return tuple(found)


def _read(module: object, names: Mapping[str, str]) -> dict[str, Array]:
    """The tensors by role, one axis each."""
    return {
        role: getattr(module, own).detach().float().reshape(-1).cpu().numpy()
        for role, own in names.items()
    }


def _affine(module: object) -> dict[str, str]:
    """What the layer's weight and bias are called, by role."""
    import torch

    return {
        role: own
        for own, role in AFFINE.items()
        if isinstance(getattr(module, own, None), torch.Tensor)
    }
