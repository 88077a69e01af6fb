"""A module's normalisation layers as `NormLayer`s, and what a module adds to those of a file."""

from __future__ import annotations

from dataclasses import replace

from bncheck.layers.norm_layer import NormLayer, Origin, Setting
from bncheck.measuring.instrumented import Instrumented


def described_by(layers: tuple[NormLayer, ...], subject: Instrumented) -> tuple[NormLayer, ...]:
    """The layers with eps and momentum of the model's modules, where only defaults were assumed."""
    subject.require_norms()
    modules = {name: norm.module for name, norm in subject.by_file_name().items()}
    return tuple(
        replace(
            layer,
            eps=_from_module(layer.eps, modules[layer.name], "eps"),
            momentum=_from_module(layer.momentum, modules[layer.name], "momentum"),
        )
        if layer.name in modules
        else layer
        for layer in layers
    )


def _from_module(setting: Setting, module: object, name: str) -> Setting:
    if setting.known or not hasattr(module, name):
        return setting
    value = getattr(module, name)
    return Setting(None if value is None else float(value), Origin.MODEL)


def layers_of(subject: Instrumented) -> tuple[NormLayer, ...]:
    """The normalisation layers of a module in memory, which may be none."""
    found = []
    for norm in subject.norms:
        module = norm.module
        counter = getattr(module, "num_batches_tracked", None)
        tensors = {
            name: tensor.detach().float().cpu().numpy()
            for name in ("running_mean", "running_var", "weight", "bias")
            if (tensor := getattr(module, name, None)) is not None
        }
        found.append(
            NormLayer(
                norm.name,
                norm.kind,
                mean=tensors.get("running_mean"),
                var=tensors.get("running_var"),
                weight=tensors.get("weight"),
                bias=tensors.get("bias"),
                batches=None if counter is None else float(counter),
                eps=Setting(float(getattr(module, "eps", 1e-5)), Origin.MODEL),
                momentum=Setting(getattr(module, "momentum", None), Origin.MODEL),
                training=module.training,
                tracks_statistics=True,
            )
        )
    return tuple(found)
