"""`bncheck inspect`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bncheck.cli import console
from bncheck.cli.groups import expanded
from bncheck.cli.judging import Judge, JudgingOptions
from bncheck.cli.measuring import MeasuringOptions, mended_path, progress_bar
from bncheck.cli.options import (
    EpsOption,
    KeyOption,
    MomentumOption,
    OutputOption,
    exit_code,
)
from bncheck.cli.ranks import DEFAULT_TIMEOUT, TimeoutOption, launched
from bncheck.cli.reporting import Delivery, ReportOptions
from bncheck.core.errors import BncheckError, ExitCode

if TYPE_CHECKING:
    from bncheck.inspecting.from_file import Options
    from bncheck.inspecting.report import InspectReport
    from bncheck.reading.checkpoint import Checkpoint, Subtree

#: How many other parts of a file are looked at to say what they are.
_JUDGED = 3


@expanded
def inspect(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CKPT...", help="Checkpoint files or folders.")
    ],
    *,
    key: KeyOption = None,
    eps: EpsOption = None,
    momentum: MomentumOption = None,
    train_batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--train-batch-size", min=1, metavar="N", help="Samples a device saw at once."
        ),
    ] = None,
    shape: Annotated[
        bool, typer.Option("--shape", help="Also count each channel's values in 64 bins.")
    ] = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    output: OutputOption = None,
    judging: JudgingOptions,
    measuring_options: MeasuringOptions,
    reporting: ReportOptions,
) -> int:
    """Are the running statistics in a checkpoint sound?

    Reads files of torch.save (old and new), whole pickled modules, TorchScript, .pt2, safetensors,
    sharded and distributed checkpoints, and ONNX. Nothing in the file is executed. With --model
    and --data, also whether they agree with what the layers see, and if not, why.
    """
    from bncheck.inspecting.command import inspect as run
    from bncheck.inspecting.from_file import Options

    delivery = reporting.delivery(output, spare=checkpoints)
    judge = judging.judge()
    policy = judge.policy
    options = Options(
        key, eps, momentum, train_batch_size, policy.select, policy.ignore, policy.thresholds
    )
    reports: list[InspectReport] = []
    errors: list[BncheckError] = []
    asked = [("--key", key), ("--eps", eps), ("--momentum", momentum)]
    if shape and measuring_options.data is None:
        raise BncheckError("--shape is about data", "give --data, or leave it out")
    command = measuring_options.command(asked)
    given = {"checkpoints": checkpoints, "measuring": measuring_options, "options": options}
    with (
        progress_bar(not reporting.quiet) as progress,
        launched(timeout, "inspect", shape=shape, **given) as ranks,
    ):
        for path in checkpoints:
            measuring = measuring_options.measuring(ranks, progress, _filled(command, path))
            if measuring is not None:
                measuring = replace(measuring, shape=shape)
            try:
                with ranks.together(str(path)):
                    done = run(path, options, measuring)
                    if done.measurement is None:
                        ranks.agree_on_report(done.to_dict())
                reports.append(judge.report(done))
            except BncheckError as error:
                if error.subject != str(path):  # not about the file: no other will fare better
                    raise
                console.error(str(error))
                errors.append(error)
        if ranks.rank:  # rank 0 reports, and the others wait until it has
            findings = [finding for done in reports for finding in done.findings]
            return exit_code(findings, policy.fail_on) if not errors else ExitCode.ERROR
        return _deliver(reports, errors, options, judge, delivery, several=len(checkpoints) > 1)


def _deliver(
    reports: list[InspectReport],
    errors: list[BncheckError],
    options: Options,
    judge: Judge,
    delivery: Delivery,
    several: bool,
) -> int:
    from bncheck.reporting.views.inspect import InspectView

    for done in reports:
        _say_choices(done, options)
    if reports or several:
        delivery.deliver(InspectView(reports, errors, several), judge.limit)
    findings = [finding for done in reports for finding in done.findings]
    return judge.finish(findings, failed=bool(errors))


def _filled(command: str, path: Path) -> str:
    """The command to recalibrate this checkpoint."""
    words = {"{path}": str(path), "{out}": str(mended_path(path))}
    for blank, word in words.items():
        command = command.replace(blank, shlex.quote(word))
    return command


def _say_choices(report: InspectReport, options: Options) -> None:
    """What the reader chose on the user's behalf, and what it did not find."""
    from bncheck.reading.opening import unlisted_tensors
    from bncheck.reporting.visible import visible

    checkpoint = report.checkpoint
    assert checkpoint is not None  # the command inspects files
    if checkpoint.alternatives:
        judged = checkpoint.alternatives[:_JUDGED]
        others = [_judge(checkpoint, tree, options) for tree in judged]
        more = len(checkpoint.alternatives) - len(judged)
        others += [f"{more} more"] if more else []
        console.note(
            f"{checkpoint.path}: inspected {visible(checkpoint.key) or 'the root'}; "
            f"--key takes another: {', '.join(others)}"
        )
    if unlisted := unlisted_tensors(checkpoint):
        rest = f" and {len(unlisted) - 1} more" if len(unlisted) > 1 else ""
        console.note(
            f"{checkpoint.path}: not inspected: {visible(unlisted[0])}{rest}, in a shard for which "
            "the index does not list it; some loaders load it all the same"
        )
    if not report.layers:
        console.note(f"{checkpoint.path}: holds no normalisation layer with running statistics")


def _judge(checkpoint: Checkpoint, tree: Subtree, options: Options) -> str:
    """Another part of the file with its verdict: broken averages must not hide behind a choice."""
    from bncheck.inspecting.from_file import judge
    from bncheck.reading.tensors import TensorMap
    from bncheck.reporting.visible import visible

    tensors = TensorMap(tree.tensors)
    other = replace(checkpoint, key=tree.path, tensors=tensors, modules=tree.modules)
    try:
        verdict = judge(other, options).summary.verdict.value
    except BncheckError as error:
        verdict = error.sentence
    return f"{visible(tree.path) or 'the root'} ({verdict})"
