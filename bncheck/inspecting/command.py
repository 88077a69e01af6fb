"""`inspect`: a checkpoint or a module in, one report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint, static_findings
from bncheck.inspecting.report import InspectReport
from bncheck.reading.opening import open_checkpoint
from bncheck.rules.choosing import choose_rules

if TYPE_CHECKING:
    from torch import nn

    from bncheck.subject.setup import Measuring


def inspect(
    path: str | Path, options: InspectOptions | None = None, measuring: Measuring | None = None
) -> InspectReport:
    """Inspect the file or folder at `path`, executing nothing in it.

    With `measuring`, a model and data, its statistics are also held against what the layers see.
    Raises BncheckError where it cannot be read, or an option names what does not exist.
    """
    options = options or InspectOptions()
    rules = choose_rules(
        options.select, options.ignore
    )  # a misspelt rule is not a fault of the file
    checkpoint = open_checkpoint(path, options.key)
    try:
        report = inspect_checkpoint(checkpoint, options)
    except BncheckError as error:
        raise error.about(str(path)) from None
    if measuring is None:
        return report
    from bncheck.inspecting.with_data import inspect_with_data

    return inspect_with_data(checkpoint, report.layers, rules, options, measuring)


def inspect_module(
    model: nn.Module, options: InspectOptions | None = None, measuring: Measuring | None = None
) -> InspectReport:
    """Inspect a module in memory; it comes back as it was."""
    from bncheck.inspecting.with_data import inspect_module_with_data
    from bncheck.subject.module_layers import layers_of
    from bncheck.subject.setup import in_memory

    options = options or InspectOptions()
    rules = choose_rules(options.select, options.ignore)
    subject = in_memory(model)
    layers = layers_of(subject)
    if measuring is not None:
        return inspect_module_with_data(subject, layers, rules, options, measuring)
    return InspectReport(None, layers, tuple(static_findings(None, layers, options)))
