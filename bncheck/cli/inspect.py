"""`bncheck inspect`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.measuring import MeasuringOptions, progress_bar
from bncheck.cli.options import (
    EpsOption,
    KeyOption,
    MomentumOption,
    OutputOption,
    TrainBatchSizeOption,
    exit_code,
)
from bncheck.cli.places import PLACES, places, say_traffic
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.ranks import DEFAULT_TIMEOUT, TimeoutOption, launched
from bncheck.cli.reporting import ReportOptions
from bncheck.core.errors import BncheckError, ExitCode, OtherFileError
from bncheck.core.words import count, shortened

if TYPE_CHECKING:
    from bncheck.inspecting.from_file import InspectOptions
    from bncheck.inspecting.several import Inspected
    from bncheck.measuring.distributed import Processes
    from bncheck.subject.setup import Measuring

#: Endings that mean one format.
_ONE_FORMAT: Final = (".safetensors", ".onnx", ".pt2")

TOLD: Final = Told(
    (
        "bncheck inspect model.pt",
        "bncheck inspect runs/ --fail-on warning -o report.html",
        "bncheck inspect model.pt --model nets.py:build --data data.py:loader",
    ),
)


@expanded
def inspect(
    checkpoints: Annotated[list[str], typer.Argument(metavar="CKPT...", help=PLACES)],
    *,
    key: KeyOption = None,
    eps: EpsOption = None,
    momentum: MomentumOption = None,
    train_batch_size: TrainBatchSizeOption = None,
    shape: Annotated[
        bool, typer.Option("--shape", help="Also count each channel's values in 64 bins.")
    ] = False,
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="Read files in so many processes."),
    ] = 1,
    only_checkpoints: Annotated[
        bool,
        typer.Option(
            "--only-checkpoints",
            help="Leave out files that are something else, such as a .bin of firmware.",
        ),
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
    from bncheck.inspecting.several import inspect_in_processes
    from bncheck.reading.remote import is_local
    from bncheck.reporting.documents.inspect import said

    delivery = reporting.delivery(output)
    tally = policy_options.tally()
    paths = places(checkpoints)
    check_files(paths, (), tally, delivery, measuring_options)
    policy = tally.policy
    options = InspectOptions(
        key, eps, momentum, train_batch_size, policy.select, policy.ignore, policy.thresholds
    )
    if jobs > 1 and measuring_options.specs:
        raise BncheckError("--jobs is for reading files alone", "start a model under torchrun")
    if shape and measuring_options.data is None:
        raise BncheckError("--shape needs data", "add --data, or leave it out")
    given = {"checkpoints": checkpoints, "measuring": measuring_options, "options": options}
    with launched(timeout, "inspect", shape=shape, **given) as ranks:
        with progress_bar(not reporting.quiet and not ranks.rank) as progress:
            measuring = measuring_options.measuring(ranks, progress)
            if measuring is not None:
                measuring = replace(measuring, shape=shape)
            if jobs > 1 and len(paths) > 1 and all(map(is_local, paths)):
                results = inspect_in_processes(paths, options, jobs)
            else:
                results = _one_by_one(paths, options, measuring, ranks)
            if only_checkpoints:
                results = _without_others(results)
            found, errors = _sorted(results)
        reports = [tally.count(done.report, file=Path(done.report.subject)) for done in found]
        findings = [finding for done in reports for finding in done.findings]
        if ranks.rank:  # rank 0 reports, and the others wait until it has
            return exit_code(findings, policy.fail_on) if not errors else ExitCode.ERROR
        notes = [done.notes for done in found]
        for note in (note for of_one in notes for note in of_one):
            console.note(note)
        say_traffic(paths)
        several = len(paths) > 1
        if reports or several:
            delivery.deliver(said(reports, errors, several, notes), tally)
        return tally.finish(findings, failed=bool(errors))


def _one_by_one(
    paths: Sequence[Path],
    options: InspectOptions,
    measuring: Measuring | None,
    ranks: Processes,
) -> Iterator[Inspected | BncheckError]:
    from bncheck.inspecting.command import inspect as run
    from bncheck.inspecting.several import Inspected, notes_on

    for path in paths:
        try:
            with ranks.together(str(path)):
                done = run(path, options, measuring)
                if done.measurement is None:
                    ranks.agree_on_report(done.to_dict)
        except BncheckError as error:
            if error.subject != str(path):  # not about the file: no other will fare better
                raise
            yield error
        else:
            yield Inspected(done, tuple(notes_on(done, options)) if not ranks.rank else ())


def _without_others(
    results: Iterable[Inspected | BncheckError],
) -> Iterator[Inspected | BncheckError]:
    """Those of checkpoints; which files are something else is said in one line.

    A file whose ending belongs to one format is a checkpoint that was damaged.
    """
    others = []
    for result in results:
        if isinstance(result, OtherFileError) and not result.subject.endswith(_ONE_FORMAT):
            others.append(result.subject)
        else:
            yield result
    if others:
        names = ", ".join(map(shortened, others[:3]))
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        console.note(f"left out {count(len(others), 'file')} without a checkpoint: {names}{more}")


def _sorted(
    results: Iterable[Inspected | BncheckError],
) -> tuple[list[Inspected], list[BncheckError]]:
    """Every file's report, and what is wrong with the others, which is said at once."""
    found: list[Inspected] = []
    errors: list[BncheckError] = []
    for result in results:
        if isinstance(result, BncheckError):
            console.error(str(result))
            errors.append(result)
        else:
            found.append(result)
    return found, errors
