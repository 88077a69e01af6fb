"""Healthy networks as layers, to be damaged by tests, and how rules are run on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.core.findings import Finding
from bncheck.layers.norm_layer import NormLayer, Origin, Setting
from bncheck.reading.kinds import NormKind
from bncheck.rules.file_rules import FILE_RULES
from bncheck.rules.rule import Network

SAMPLES = Path(__file__).parents[1] / "sample_models"
REAL = Path(__file__).parents[2] / "shared" / "real"

#: Known eps and momentum, as from a pickled module: the rules then judge without reserve.
KNOWN_EPS = Setting(1e-5, Origin.FILE)
KNOWN_MOMENTUM = Setting(0.1, Origin.FILE)
ASSUMED_MOMENTUM = Setting(0.1, Origin.ASSUMED)


def healthy_layer(name: str = "bn", channels: int = 8, seed: int = 0, **changes: Any) -> NormLayer:
    """A trained BatchNorm of which no rule has anything to say."""
    rng = np.random.default_rng(seed)
    layer = NormLayer(
        name,
        NormKind.BATCH,
        mean=rng.normal(0, 0.5, channels).astype(np.float32),
        var=rng.uniform(0.5, 2.0, channels).astype(np.float32),
        weight=rng.uniform(0.5, 1.5, channels).astype(np.float32),
        bias=rng.normal(0, 0.2, channels).astype(np.float32),
        batches=10_000.0,
        eps=KNOWN_EPS,
        momentum=KNOWN_MOMENTUM,
        training=False,
        tracks_statistics=True,
    )
    return replace(layer, **changes)


def network(*layers: NormLayer, **facts: Any) -> Network:
    """A network of these layers whose file keeps its modules."""
    return Network(tuple(layers), knows_modules=facts.pop("knows_modules", True), **facts)


def findings(subject: Network) -> list[Finding]:
    """What all static rules find."""
    return [finding for rule in FILE_RULES for finding in rule.check(subject)]


def codes(subject: Network) -> set[tuple[str, str, str | None]]:
    """(rule, severity, layer) of every finding."""
    return {(f.rule, f.severity.value, f.layer) for f in findings(subject)}
