"""`bncheck inspect`."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bncheck.cli import console
from bncheck.cli.measuring import (
    BatchSizeOption,
    DataOption,
    DeviceOption,
    Given,
    MaxSamplesOption,
    MeanOption,
    MetricOption,
    ModelArgOption,
    ModelOption,
    ScaleOption,
    SizeOption,
    StdOption,
    TrustOption,
    mended_path,
    progress_bar,
)
from bncheck.cli.options import (
    EpsOption,
    FailOn,
    FailOnOption,
    Format,
    FormatOption,
    JsonOption,
    KeyOption,
    MomentumOption,
    NoColorOption,
    OutputOption,
    QuietOption,
    ReportOption,
    VerboseOption,
    exit_code,
    outputs,
)
from bncheck.errors import BncheckError, ExitCode

if TYPE_CHECKING:
    from bncheck.inspect_report import InspectReport
    from bncheck.static_inspection import Options

#: How many other parts of a file are looked at to say what they are.
_JUDGED = 3


def inspect(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CKPT...", help="Checkpoint files or folders.")
    ],
    key: KeyOption = None,
    eps: EpsOption = None,
    momentum: MomentumOption = None,
    train_batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--train-batch-size", min=1, help="Samples a device saw at once."),
    ] = None,
    select: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--select", metavar="RULES", help="Only these rules: BN101,BN102 or BN1."),
    ] = None,
    ignore: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--ignore", metavar="RULES", help="All but these rules."),
    ] = None,
    model: ModelOption = None,
    model_arg: ModelArgOption = None,
    data: DataOption = None,
    trust: TrustOption = False,
    device: DeviceOption = "cpu",
    metric: MetricOption = None,
    batch_size: BatchSizeOption = None,
    max_samples: MaxSamplesOption = None,
    scale: ScaleOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    shape: Annotated[
        bool, typer.Option("--shape", help="Also count each channel's values in 64 bins.")
    ] = False,
    fail_on: FailOnOption = FailOn.ERROR,
    format_: FormatOption = Format.TEXT,
    json: JsonOption = False,
    output: OutputOption = None,
    report: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Tell whether the running statistics in a checkpoint are sound.

    Reads files of torch.save (old and new), whole pickled modules, TorchScript, .pt2, safetensors,
    sharded and distributed checkpoints, and ONNX. Nothing in the file is executed. With --model
    and --data, also whether they agree with what the layers see, and if not, why.
    """
    from bncheck.inspection import inspect as run
    from bncheck.measuring.distributed import launched_processes
    from bncheck.static_inspection import Options

    if quiet and verbose:
        raise BncheckError("--quiet and --verbose exclude each other", "give one of them")
    shown, files = outputs(Format.JSON if json else format_, output, report or [])
    for _, path in files:
        _refuse_overwriting(path, checkpoints)
    options = Options(key, eps, momentum, train_batch_size, select or (), ignore or ())
    reports: list[InspectReport] = []
    errors: list[BncheckError] = []
    given = Given(
        model, model_arg or (), data, trust, device, metric, batch_size, max_samples, scale, mean,
        std, size, shape,
    )  # fmt: skip
    command = given.command([("--key", key), ("--eps", eps), ("--momentum", momentum)])
    with progress_bar(not quiet) as progress, launched_processes(device) as processes:
        for path in checkpoints:
            measuring = given.measuring(processes, progress, _filled(command, path))
            try:
                reports.append(run(path, options, measuring))
            except BncheckError as error:
                if error.subject != str(path):  # not about the file: no other will fare better
                    raise
                console.error(str(error))
                errors.append(error)
    if processes.rank:  # rank 0 reports
        return _code(reports, errors, fail_on)
    for done in reports:
        _say_choices(done, options)
    several = len(checkpoints) > 1
    if reports or several:
        for format_, path in files:
            _write(format_, path, reports, errors, several)
        _show(
            shown, reports, errors, several=several, quiet=quiet, verbose=verbose, no_color=no_color
        )
    return _code(reports, errors, fail_on)


def _code(reports: list[InspectReport], errors: list[BncheckError], fail_on: FailOn) -> ExitCode:
    if errors:
        return ExitCode.ERROR
    return exit_code([finding for done in reports for finding in done.findings], fail_on)


def _filled(command: str, path: Path) -> str:
    """The command to recalibrate this checkpoint."""
    words = {"{path}": str(path), "{out}": str(mended_path(path))}
    for blank, word in words.items():
        command = command.replace(blank, shlex.quote(word))
    return command


def _refuse_overwriting(output: Path, checkpoints: list[Path]) -> None:
    if any(output.exists() and path.exists() and output.samefile(path) for path in checkpoints):
        raise BncheckError(
            "is the checkpoint itself, not a place for a report", "name another file", str(output)
        )


def _say_choices(report: InspectReport, options: Options) -> None:
    """What the reader chose on the user's behalf, and what it did not find."""
    from bncheck.reporting.visible import visible

    checkpoint = report.checkpoint
    assert checkpoint is not None  # the command inspects files
    if checkpoint.alternatives:
        judged = checkpoint.alternatives[:_JUDGED]
        others = [_judge(checkpoint.path, tree.path, options) for tree in judged]
        more = len(checkpoint.alternatives) - len(judged)
        others += [f"{more} more"] if more else []
        console.note(
            f"{checkpoint.path}: inspected {visible(checkpoint.key) or 'the root'}; "
            f"--key takes another: {', '.join(others)}"
        )
    if not report.layers:
        console.note(f"{checkpoint.path}: holds no normalisation layer with running statistics")


def _judge(path: Path, key: str, options: Options) -> str:
    """Another part of the file with its verdict: broken averages must not hide behind a choice."""
    from bncheck.inspection import inspect as run
    from bncheck.reporting.visible import visible

    try:
        verdict = run(path, replace(options, key=key)).summary.verdict.value
    except BncheckError as error:
        verdict = error.sentence
    return f"{visible(key) or 'the root'} ({verdict})"


def _write(
    format_: Format,
    path: Path,
    reports: list[InspectReport],
    errors: list[BncheckError],
    several: bool,
) -> None:
    from bncheck.reporting.write import write_text

    write_text(path, _render(format_, reports, errors, several))


def _render(
    format_: Format, reports: list[InspectReport], errors: list[BncheckError], several: bool
) -> str:
    if format_ is Format.JSON:
        from bncheck.reporting import json_report

        return json_report.render(reports, errors, several)
    from bncheck.reporting import text

    page = io.StringIO()
    text.show(console.file_console(page), reports, verbose=True)
    return page.getvalue()


def _show(
    format_: Format,
    reports: list[InspectReport],
    errors: list[BncheckError],
    *,
    several: bool,
    quiet: bool,
    verbose: bool,
    no_color: bool,
) -> None:
    if format_ is not Format.TEXT:
        typer.echo(_render(format_, reports, errors, several), nl=False)
        return
    from bncheck.reporting import text

    terminal = console.result_console(no_color)
    if quiet:
        text.show_findings(terminal, reports)
    else:
        text.show(terminal, reports, verbose)
