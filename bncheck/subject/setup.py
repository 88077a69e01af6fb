"""A model, its data, and how to run one on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.extras import need
from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.core.words import Note, a_kind, shortened, unsaid
from bncheck.data import Batches, DataOptions, open_data
from bncheck.measuring.distributed import Processes
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.run import Metric, Progress, Run
from bncheck.reading.checkpoint import Checkpoint
from bncheck.subject.given import check_kind, check_module, check_runnable, copied, refuse_scripted
from bncheck.subject.model import build_model, load_trusted, load_weights

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Measuring:
    """A model, data, and how to run one on the other.

    `model` is TARGET:CALLABLE, None to unpickle the file itself (`trust`), or a module.
    Dotted modules are imported from `import_root`, None for the working directory. With `force`,
    measured statistics are written even where nothing shows that they serve better. `note` is told
    what was taken as what.
    """

    model: str | nn.Module | None
    data: object
    model_args: Sequence[str] = ()
    data_options: DataOptions | None = None
    trust: bool = False
    device: str = "cpu"
    metric: str | Metric | None = None
    shape: bool = False
    processes: Processes = field(default_factory=Processes)
    progress: Progress = lambda done, total: None
    import_root: Path | None = None
    force: bool = False
    note: Note = unsaid

    def run(
        self,
        train_batch_size: int | None = None,
        everything: bool = False,
        thresholds: Thresholds = DEFAULT,
    ) -> Run:
        """How to run it, with the device and the metric looked up."""
        metric, name = self._metric()
        return Run(
            self.checked_device(),
            self.processes,
            self.progress,
            metric,
            name,
            train_batch_size,
            everything,
            self.shape,
            thresholds,
        )

    def checked_device(self) -> str:
        """The device of this process, or one line if it is not there."""
        return checked_device(self.processes.device(self.device))

    def batches(self) -> Batches:
        """The data, opened."""
        need("torch", purpose="--data")
        batches = open_data(self.data, self.data_options)
        if batches.note:
            self.note(batches.note)
        return batches

    def _metric(self) -> tuple[Metric | None, str]:
        if self.metric is None:
            return None, "metric"
        if not isinstance(self.metric, str):
            return self.metric, getattr(self.metric, "__name__", "metric")
        found = usercode.resolve(self.metric, "--metric")
        if not callable(found):
            raise BncheckError(
                f"--metric {self.metric} is {a_kind(found)}, not a function",
                "name a function of the model's output and the labels, higher is better",
            )
        return found, self.metric.rpartition(":")[2]


def checked_device(device: str) -> str:
    """The device, or one line if it is not there."""
    need("torch")
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = shortened(str(error).partition("\n")[0], 120)
        raise BncheckError(
            f"--device {device} cannot be used ({reason})", "try --device cpu"
        ) from None
    return device


def instrumented(measuring: Measuring, checkpoint: Checkpoint) -> Instrumented:
    """The model with the checkpoint's tensors, on the device, its layers found.

    Of a module that is given a copy: the user's own keeps its weights, and another file may be
    loaded beside this one.
    """
    if measuring.model is None:
        if not measuring.trust:
            raise BncheckError(
                "a model is needed to measure", "give --model, or --trust for a pickled module"
            )
        model = load_trusted(checkpoint)
        refuse_scripted(model)
        return Instrumented.of(model.to(measuring.checked_device()))
    model = own_model(measuring)
    names = load_weights(model, checkpoint)
    return Instrumented.of(model.to(measuring.checked_device()), names.prefix, names.layers())


def own_model(measuring: Measuring) -> nn.Module:
    """The model that is named, built, or a copy of the one that is given; refused if scripted."""
    if isinstance(measuring.model, str):
        model = build_model(measuring.model, measuring.model_args)
    else:
        assert measuring.model is not None
        check_kind(measuring.model)
        model = copied(measuring.model)
    refuse_scripted(model)
    return model


def in_memory(model: nn.Module) -> Instrumented:
    """A module that the user built and loaded, which stays as it is."""
    check_module(model)
    return Instrumented.of(model)


def device_of(model: nn.Module) -> str:
    """Where a module in memory is measured, and stays. Raises BncheckError where it cannot be."""
    check_runnable(model)
    tensor = next(iter((*model.parameters(), *model.buffers())), None)
    return "cpu" if tensor is None else str(tensor.device)
