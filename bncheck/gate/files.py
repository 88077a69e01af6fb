"""The files that the declared models name, to be held against what is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from bncheck.core.errors import BncheckError
from bncheck.core.usercode import files_of_spec
from bncheck.gate.declared import files_of, located, located_spec
from bncheck.policy.config.load import Configuration
from bncheck.policy.config.settings import Model


def files_read(configuration: Configuration, models: Mapping[str, Model]) -> Iterator[Path]:
    """Checkpoints, snapshots, data and code."""
    for name, model in models.items():
        for key, patterns in (("checkpoint", model.checkpoint), ("drift", model.drift)):
            with contextlib.suppress(BncheckError):  # said when the model is checked
                yield from files_of(configuration, name, patterns, key)
        for spec in filter(None, (model.model, model.data)):
            yield from files_of_spec(located_spec(configuration, spec))


def files_compared(configuration: Configuration, models: Mapping[str, Model]) -> list[Path]:
    """What `compare` holds against the models; an `export` may have made it a moment before."""
    return [located(configuration, m.compare) for m in models.values() if m.compare is not None]


def files_exported(configuration: Configuration, models: Mapping[str, Model]) -> list[Path]:
    """The ONNX files that are made, and what is replaced with them."""
    made = [located(configuration, m.export) for m in models.values() if m.export is not None]
    if made:
        from bncheck.shipping.writing import targets_of

        return [target for path in made for target in targets_of(path)]
    return []
