"""`bncheck landscape`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.measuring import ModelOptions, progress_bar
from bncheck.cli.options import KeyOption, OutputOption, finite
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.reporting import PictureOptions
from bncheck.core.errors import BncheckError


class Mode(StrEnum):
    """What BatchNorm normalises with."""

    TRAIN = "train"
    EVAL = "eval"


TOLD: Final = Told(
    (
        "bncheck landscape model.pt --eta 0.1 --model nets.py:build --data data.py:loader",
        "bncheck landscape epoch_*.pt --eta 0.1 --model nets.py:build --data d.npz -o loss.html",
    ),
)


@expanded
def landscape(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CKPT...", help="A checkpoint, or those of a training.")
    ],
    *,
    eta: Annotated[
        float,
        typer.Option(
            "--eta", metavar="RATE", callback=finite, help="The learning rate of the training."
        ),
    ],
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="TARGET:CALLABLE",
            help="loss(output, labels) of a batch (default: cross entropy, or as the labels ask).",
        ),
    ] = None,
    batches: Annotated[
        int, typer.Option("--batches", min=1, metavar="N", help="How many batches to look at.")
    ] = 8,
    mode: Annotated[
        Mode,
        typer.Option(help="train: BatchNorm normalises with the batch; eval: running statistics."),
    ] = Mode.TRAIN,
    key: KeyOption = None,
    output: OutputOption = None,
    policy_options: PolicyOptions,
    model_options: ModelOptions,
    reporting: PictureOptions,
) -> int:
    """Show how smooth the loss is, and what rate it stands.

    On the same labelled batches for every checkpoint: the loss and the gradient along one step of
    descent (Santurkar et al. 2018), the covariate shift of each layer, and the largest curvature
    with batch statistics and with running ones. The checkpoints stay as they are.
    """
    from bncheck.reporting.documents.landscape import document
    from bncheck.reporting.formats import said
    from bncheck.surveying.command import LandscapeOptions
    from bncheck.surveying.command import landscape as run
    from bncheck.surveying.objective import Mode as Normalising

    _refuse_ranks()
    delivery = reporting.delivery(output)
    tally = policy_options.tally()
    check_files(checkpoints, (), tally, delivery, model_options)
    if model_options.model is None and not model_options.trust:
        raise BncheckError(
            "a gradient needs a model",
            "add --model TARGET:CALLABLE, or --trust for a pickled module",
        )
    if model_options.data is None:
        raise BncheckError("a loss needs labelled data", "add --data SPEC")
    with progress_bar(not reporting.quiet, "batches") as progress:
        options = LandscapeOptions(
            eta, batches, Normalising(mode.value), loss, key=key, tell=progress
        )
        report = tally.count(run(checkpoints, options, model_options.parts()))
    for error in report.errors:
        console.error(str(error))
    for note in report.notes:
        console.note(note)
    delivery.deliver(said(report.to_dict, lambda: document(report)), tally)
    return tally.finish(report.findings, failed=bool(report.errors))


def _refuse_ranks() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BncheckError("landscape runs in a single process", "start it without torchrun")
