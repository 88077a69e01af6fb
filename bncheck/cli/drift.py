"""`bncheck drift`."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.measuring import ModelOptions, progress_bar
from bncheck.cli.options import EpsOption, KeyOption, OutputOption, exit_code
from bncheck.cli.places import PLACES, place, places, say_traffic
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.ranks import DEFAULT_TIMEOUT, TimeoutOption, launched
from bncheck.cli.reporting import PictureOptions
from bncheck.core.errors import BncheckError, ExitCode
from bncheck.core.words import unsaid

if TYPE_CHECKING:
    from bncheck.subject.setup import Measuring


class Layers(StrEnum):
    """Which layers are measured."""

    NORM = "norm"
    ALL = "all"


class Order(StrEnum):
    """What puts the snapshots in order."""

    AUTO = "auto"
    NAME = "name"
    GIVEN = "given"


TOLD: Final = Told(
    (
        "bncheck drift runs/epoch_*.pt",
        "bncheck drift runs/ --reference first -o drift.html",
        "bncheck drift runs/ --model nets.py:build --data data.py:loader --shape",
    ),
)


@expanded
def drift(
    snapshots: Annotated[
        list[str],
        typer.Argument(metavar="CKPT...", help=f"Snapshots of one training run. {PLACES}"),
    ],
    *,
    reference: Annotated[
        str,
        typer.Option(
            metavar="last|first|previous|FILE", help="What every snapshot is compared with."
        ),
    ] = "last",
    layers: Annotated[
        Layers,
        typer.Option(help="all: also outputs of convolutions, linear layers and activations."),
    ] = Layers.NORM,
    shape: Annotated[
        bool, typer.Option("--shape", help="Also compare histograms (with --model and --data).")
    ] = False,
    order: Annotated[
        Order,
        typer.Option(help="auto: the step or epoch in the files, else their names, else as given."),
    ] = Order.AUTO,
    key: KeyOption = None,
    eps: EpsOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    output: OutputOption = None,
    policy_options: PolicyOptions,
    model_options: ModelOptions,
    reporting: PictureOptions,
) -> int:
    """Show how every layer's distribution moved in training.

    From the files alone: running statistics are statistics of activations. With --model and --data
    the distributions themselves are measured, on the same data for every snapshot.
    """
    from bncheck.drifting.command import DriftOptions
    from bncheck.drifting.command import drift as run
    from bncheck.reporting.documents.drift import document
    from bncheck.reporting.formats import said

    delivery = reporting.delivery(output)
    tally = policy_options.tally()
    paths = places(snapshots)
    check_files([*paths, place(reference)], (), tally, delivery, model_options)
    policy = tally.policy
    measuring = _measuring(model_options)
    given = {"snapshots": snapshots, "measuring": model_options, "select": policy.select}
    with launched(
        timeout, "drift", reference=reference, layers=layers, shape=shape, order=order, key=key,
        eps=eps, **given,
    ) as ranks:  # fmt: skip
        if measuring is not None:
            note = unsaid if ranks.rank else measuring.note
            measuring = replace(measuring, processes=ranks, note=note)
        bar = progress_bar(not reporting.quiet and not ranks.rank, "snapshots")
        with bar as progress, ranks.together("the series"):
            options = DriftOptions(
                reference, order.value, layers is Layers.ALL, shape, key, eps,
                policy.select, policy.ignore, policy.thresholds,
                partial(progress, what="reading"), progress,
            )  # fmt: skip
            report = run(paths, options, measuring)
            if measuring is None:
                ranks.agree_on_report(report.to_dict)
        report = tally.count(report)
        if ranks.rank:  # rank 0 reports, and the others wait until it has
            code = exit_code(report.findings, policy.fail_on)
            return ExitCode.ERROR if report.errors else code
        for error in report.errors:
            console.error(str(error))
        for line in report.notes:
            console.note(line)
        say_traffic(paths)
        delivery.deliver(said(report.to_dict, lambda: document(report)), tally)
        return tally.finish(report.findings, failed=bool(report.errors))


def _measuring(options: ModelOptions) -> Measuring | None:
    """What to measure with; None where the files alone are to be read."""
    has_model = options.model is not None or options.trust
    if options.data is not None and not has_model:
        raise BncheckError(
            "--data needs a model",
            "add --model TARGET:CALLABLE, or --trust for pickled modules",
        )
    if options.data is None and has_model:
        raise BncheckError("--model needs data", "add --data SPEC")
    options.check_idle()
    return options.parts() if has_model else None
