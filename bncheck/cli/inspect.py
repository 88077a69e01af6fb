"""`bncheck inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.measuring import MeasuringOptions, progress_bar
from bncheck.cli.options import (
    EpsOption,
    KeyOption,
    MomentumOption,
    OutputOption,
    exit_code,
)
from bncheck.cli.places import PLACES, places, say_traffic
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.ranks import DEFAULT_TIMEOUT, TimeoutOption, launched
from bncheck.cli.reporting import ReportOptions
from bncheck.core.errors import BncheckError, ExitCode

if TYPE_CHECKING:
    from bncheck.inspecting.from_file import InspectOptions
    from bncheck.inspecting.report import InspectReport
    from bncheck.measuring.distributed import Processes
    from bncheck.subject.setup import Measuring


@expanded
def inspect(
    checkpoints: Annotated[list[str], typer.Argument(metavar="CKPT...", help=PLACES)],
    *,
    key: KeyOption = None,
    eps: EpsOption = None,
    momentum: MomentumOption = None,
    train_batch_size: Annotated[
        int | None,
        typer.Option(
            "--train-batch-size", min=1, metavar="N", help="Training batch size per device."
        ),
    ] = None,
    shape: Annotated[
        bool, typer.Option("--shape", help="Also count each channel's values in 64 bins.")
    ] = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    output: OutputOption = None,
    policy_options: PolicyOptions,
    measuring_options: MeasuringOptions,
    reporting: ReportOptions,
) -> int:
    """Are the running statistics in a checkpoint sound?

    Reads files of torch.save (old and new), whole pickled modules, TorchScript, .pt2, safetensors,
    sharded and distributed checkpoints, and ONNX. Nothing in the file is executed. With --model
    and --data, also whether they agree with what the layers see, and if not, why.
    """
    from bncheck.inspecting.from_file import InspectOptions
    from bncheck.reporting.documents.inspect import said

    delivery = reporting.delivery(output)
    tally = policy_options.tally()
    paths = places(checkpoints)
    check_files(paths, (), tally, delivery, measuring_options)
    policy = tally.policy
    options = InspectOptions(
        key, eps, momentum, train_batch_size, policy.select, policy.ignore, policy.thresholds
    )
    if shape and measuring_options.data is None:
        raise BncheckError("--shape needs data", "add --data, or leave it out")
    given = {"checkpoints": checkpoints, "measuring": measuring_options, "options": options}
    with launched(timeout, "inspect", shape=shape, **given) as ranks:
        with progress_bar(not reporting.quiet and not ranks.rank) as progress:
            measuring = measuring_options.measuring(ranks, progress)
            if measuring is not None:
                measuring = replace(measuring, shape=shape)
            found, errors = _all(paths, options, measuring, ranks)
        reports = [tally.count(done) for done in found]
        findings = [finding for done in reports for finding in done.findings]
        if ranks.rank:  # rank 0 reports, and the others wait until it has
            return exit_code(findings, policy.fail_on) if not errors else ExitCode.ERROR
        notes = [tuple(_choices(done, options)) for done in reports]
        for note in (note for of_one in notes for note in of_one):
            console.note(note)
        say_traffic(paths)
        several = len(paths) > 1
        if reports or several:
            delivery.deliver(said(reports, errors, several, notes), tally)
        return tally.finish(findings, failed=bool(errors))


def _all(
    checkpoints: Sequence[Path],
    options: InspectOptions,
    measuring: Measuring | None,
    ranks: Processes,
) -> tuple[list[InspectReport], list[BncheckError]]:
    """Every file's report, or what is wrong with it, which is said at once."""
    from bncheck.inspecting.command import inspect as run

    reports, errors = [], []
    for path in checkpoints:
        try:
            with ranks.together(str(path)):
                done = run(path, options, measuring)
                if done.measurement is None:
                    ranks.agree_on_report(done.to_dict())
            reports.append(done)
        except BncheckError as error:
            if error.subject != str(path):  # not about the file: no other will fare better
                raise
            console.error(str(error))
            errors.append(error)
    return reports, errors


def _choices(report: InspectReport, options: InspectOptions) -> Iterator[str]:
    """What the reader chose on the user's behalf, and what it did not find."""
    from bncheck.inspecting.choices import choice_notes

    assert report.checkpoint is not None  # the command inspects files
    yield from choice_notes(report.checkpoint, options)
    if not report.certain_layers:
        path = report.checkpoint.path
        yield f"{path}: holds no normalisation layer with running statistics"
