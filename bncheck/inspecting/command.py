"""`inspect`: a checkpoint or a module in, one report out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.core.usercode import described
from bncheck.inspecting.choices import other_parts
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint, static_findings
from bncheck.inspecting.report import InspectReport
from bncheck.reading.opening import open_checkpoint
from bncheck.rules.choosing import choose_rules

if TYPE_CHECKING:
    from torch import nn
    from torch.jit import ScriptModule

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
        others = other_parts(checkpoint, options)
    except BncheckError as error:
        raise error.about(str(path)) from None
    if measuring is not None:
        from bncheck.inspecting.with_data import inspect_with_data

        report = inspect_with_data(checkpoint, report.layers, rules, options, measuring)
    return replace(report, others=others)


def inspect_module(
    model: nn.Module, options: InspectOptions | None = None, measuring: Measuring | None = None
) -> InspectReport:
    """Inspect a module in memory; it comes back as it was. TorchScript is read as its file is."""
    from bncheck.inspecting.with_data import inspect_module_with_data
    from bncheck.subject.given import is_scripted
    from bncheck.subject.module_layers import layers_of
    from bncheck.subject.setup import in_memory

    options = options or InspectOptions()
    rules = choose_rules(options.select, options.ignore)
    if measuring is None and is_scripted(model):
        return _inspect_scripted(model, options)
    subject = in_memory(model)
    layers = layers_of(subject)
    if measuring is not None:
        return inspect_module_with_data(subject, layers, rules, options, measuring)
    return InspectReport(None, layers, tuple(static_findings(None, layers, options)))


def _inspect_scripted(model: ScriptModule, options: InspectOptions) -> InspectReport:
    """By its file: eps, mode and what becomes of the statistics are in its code alone."""
    from bncheck.reading.temporary import temporary_folder

    path = temporary_folder() / "scripted.pt"
    try:
        model.save(str(path))
        report = inspect_checkpoint(open_checkpoint(path), options)
    except RuntimeError as error:
        raise BncheckError(
            f"is TorchScript that cannot be saved ({described(error)})",
            "give the nn.Module that it was made from",
            "the model",
        ) from None
    except BncheckError as error:
        raise BncheckError(error.sentence, error.hint, "the model") from None
    finally:
        path.unlink(missing_ok=True)
    return replace(report, checkpoint=None)
