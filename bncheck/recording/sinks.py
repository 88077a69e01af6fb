"""Where people look: TensorBoard, Weights & Biases, MLflow, or a function of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bncheck.core.errors import BncheckError
from bncheck.core.words import a_kind

Scalars = Mapping[str, float]
Arrays = Mapping[str, Any]  # of NumPy

#: Told the scalars and arrays of a step by name, then the step.
Log = Callable[[dict[str, float], dict[str, Any], int], object]


@dataclass(frozen=True)
class Sink:
    """One place that is told of recorded steps; of arrays where it was asked for histograms."""

    log: Log
    histograms: bool

    def tell(self, scalars: Scalars, arrays: Arrays, step: int) -> None:
        """All names begin with `bncheck/`."""
        wanted = arrays if self.histograms else {}
        self.log(
            {f"bncheck/{name}": value for name, value in scalars.items()},
            {f"bncheck/{name}": array for name, array in wanted.items()},
            step,
        )


def sink_for(target: Any, histograms: bool) -> Sink:
    """By what the target can do. Raises BncheckError for one that can do nothing of it."""
    if hasattr(target, "add_scalar"):  # torch.utils.tensorboard, tensorboardX
        return Sink(_to_writer(target), histograms)
    if hasattr(target, "log_metrics"):  # mlflow, and loggers of Lightning
        return Sink(lambda scalars, _, step: target.log_metrics(scalars, step=step), False)
    if hasattr(target, "log") and hasattr(target, "define_metric"):  # a run of wandb
        return Sink(_to_wandb(target), histograms)
    if callable(target):
        return Sink(lambda scalars, _, step: target(scalars, step), False)
    raise BncheckError(
        f"cannot log to {a_kind(target)}",
        "give a SummaryWriter, a run of wandb, mlflow, or a function of (scalars, step)",
        "log_to",
    )


def _to_writer(writer: Any) -> Log:
    def log(scalars: Scalars, arrays: Arrays, step: int) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)
        for name, array in arrays.items():
            writer.add_histogram(name, array, step)

    return log


def _to_wandb(run: Any) -> Log:
    """With the step as a metric of its own: wandb's own counts what the training logs."""
    run.define_metric("bncheck/step")
    run.define_metric("bncheck/*", step_metric="bncheck/step")

    def log(scalars: Scalars, arrays: Arrays, step: int) -> None:
        pictures: dict[str, Any] = {}
        if arrays:
            import wandb

            pictures = {name: wandb.Histogram(array) for name, array in arrays.items()}
        run.log({**scalars, **pictures, "bncheck/step": step})  # one row of its table

    return log
