"""`bncheck recalibrate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.measuring import MeasuringOptions, progress_bar
from bncheck.cli.options import EpsOption, KeyOption, MomentumOption, TrainBatchSizeOption
from bncheck.cli.places import PLACE, place, whole
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.ranks import DEFAULT_TIMEOUT, TimeoutOption, launched
from bncheck.cli.reporting import ReportOptions
from bncheck.core.errors import BncheckError, ExitCode
from bncheck.core.words import unsaid

TOLD: Final = Told(
    (
        "bncheck recalibrate model.pt --model nets.py:build --data data.py:loader -o fixed.pt",
        "bncheck recalibrate model.pt --model nets.py:build --data images/ -o fixed.pt",
        "bncheck recalibrate under-warmed.pt -o fixed.pt",
    ),
    done="written",
    failed="not written: the report says why",
)


@expanded
def recalibrate(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help=f"A checkpoint. {PLACE}")],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="OUT", help="The repaired copy: a file, or a folder."
        ),
    ],
    key: KeyOption = None,
    eps: EpsOption = None,
    momentum: MomentumOption = None,
    train_batch_size: TrainBatchSizeOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write even where the diagnosis says otherwise.")
    ] = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    policy_options: PolicyOptions,
    measuring_options: MeasuringOptions,
    reporting: ReportOptions,
) -> int:
    """Measure the running statistics anew, and write a copy.

    Only the BatchNorm buffers' bytes differ in the copy. Nothing is written where `inspect` on the
    same data would not recalibrate (exit 1); --force writes all the same. Without --model and
    --data, averages that were updated too rarely are repaired by formula.
    """
    from bncheck.inspecting.from_file import InspectOptions
    from bncheck.recalibrating.command import recalibrate_file
    from bncheck.reporting.documents.recalibrate import document
    from bncheck.reporting.formats import said
    from bncheck.writing.atomic import check_target
    from bncheck.writing.outputs import refuse_inside

    check_target(output)
    delivery = reporting.delivery()
    tally = policy_options.tally()
    path = place(checkpoint)
    check_files([path], [output], tally, delivery, measuring_options)
    refuse_inside(output, path)
    options = InspectOptions(
        key, eps, momentum, train_batch_size, thresholds=tally.policy.thresholds
    )
    given = {"checkpoint": checkpoint, "measuring": measuring_options, "options": options}
    with launched(timeout, "recalibrate", **given) as ranks:
        with progress_bar(not reporting.quiet and not ranks.rank) as progress:
            measuring = measuring_options.measuring(ranks, progress)
            if measuring is not None and measuring.data is None:
                raise BncheckError("--model needs data", "add --data SPEC")
            if measuring is not None:
                measuring = replace(measuring, force=force)
            with whole(path) as (source, tell):
                note = unsaid if ranks.rank else tell
                done = recalibrate_file(source, output, options, measuring, ranks, note)
        if ranks.rank == 0:
            judged = replace(tally.count(done), path=path)
            answer = said(judged.to_dict, lambda: document(judged, str(checkpoint)))
            delivery.deliver(answer, tally)
            tally.finish(judged.findings)
    return ExitCode.OK if done.reason is None else ExitCode.FINDINGS
