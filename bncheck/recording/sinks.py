"""Where people look: TensorBoard, Weights & Biases, MLflow, or a function of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: Told the scalars of a step by name, then the step.
Log = Callable[[dict[str, float], int], object]


@dataclass(frozen=True)
class Sink:
    """One place that is told scalars, and histograms where it was asked for."""

    log: Log
    histogram: Callable[[str, Array, int], object] | None = None

    def tell(self, scalars: Mapping[str, float], arrays: Mapping[str, Array], step: int) -> None:
        """All names begin with `bncheck/`."""
        self.log({f"bncheck/{name}": value for name, value in scalars.items()}, step)
        if self.histogram is not None:
            for name, array in arrays.items():
                self.histogram(f"bncheck/{name}", array, step)


def sink_for(target: Any, histograms: bool) -> Sink:
    """By what the target can do. Raises BncheckError for one that can do nothing of it."""
    if hasattr(target, "add_scalar"):  # torch.utils.tensorboard, tensorboardX
        return Sink(_scalars_of(target), target.add_histogram if histograms else None)
    if hasattr(target, "log_metrics"):  # mlflow, and loggers of Lightning
        return Sink(lambda scalars, step: target.log_metrics(scalars, step=step))
    if hasattr(target, "log") and hasattr(target, "define_metric"):  # a run of wandb
        return _wandb(target, histograms)
    if callable(target):
        return Sink(target)
    raise BncheckError(
        f"cannot log to a {type(target).__name__}",
        "give a SummaryWriter, a run of wandb, mlflow, or a function of (scalars, step)",
        "log_to",
    )


def _scalars_of(writer: Any) -> Log:
    def log(scalars: dict[str, float], step: int) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    return log


def _wandb(run: Any, histograms: bool) -> Sink:
    """With the step as a metric of its own: wandb's own step is not for others to move."""
    run.define_metric("bncheck/step")
    run.define_metric("bncheck/*", step_metric="bncheck/step")

    def log(scalars: dict[str, float], step: int) -> None:
        run.log({**scalars, "bncheck/step": step})

    def histogram(name: str, array: Array, step: int) -> None:
        import wandb

        run.log({name: wandb.Histogram(array), "bncheck/step": step})

    return Sink(log, histogram if histograms else None)
